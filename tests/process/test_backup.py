"""docs/how-to/backup.md on a real point-in-time recovery: its commands as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import psycopg
import pytest

from pgonly_django.embedded import Server, _binaries, unprivileged
from pgonly_django.tables import qualified
from tests import zygote
from tests.children import ROOT
from tests.docs.pages import DOCS, snippet
from tests.process.conftest import server_of_its_own
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

PAGE = (DOCS / "how-to/backup.md").read_text()
BEFORE = """
from django.core.cache import caches
from django.utils import timezone
from datetime import timedelta
from pgonly_django.cache import PostgresCache
from pgonly_django.models import Schedule
from pgonly_django.sessions import SessionStore
from tests import jobs

jobs.add.using(queue_name="mail").enqueue(1)
jobs.add.using(run_after=timezone.now() + timedelta(days=30)).enqueue(2)
jobs.pause.enqueue(600.0)
Schedule.objects.create(name="nightly", task="tests.jobs.add", args=[1], cron="0 3 * * *")
session = SessionStore()
session["cart"] = [1]
session.save()
caches["answers"].set("paid", "kept", None)
PostgresCache("pages", {}).set("page", "html", None)
"""
AFTER_THE_MOMENT = """
from pgonly_django.models import Job, Session, Step

Session.objects.all().revoke()
Step.objects.create(job=Job.objects.get(state="running"), name="paid", result="answer")
"""


class Site:
    """The commands of a site with the database at this URL."""

    def __init__(self, url, before=""):
        place = {"DJANGO_SETTINGS_MODULE": "tests.process.worker_settings", "PYTHONPATH": str(ROOT)}
        if before:
            place["TEST_DATABASES"] = json.dumps({"before": before})
        self.environment = {**os.environ, **place, "DATABASE_URL": url, "TEST_LEASE_SECONDS": "2"}

    def start(self, *arguments):
        command = [sys.executable, str(ROOT / "manage.py"), *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments):
        done = zygote.run(["manage.py", *arguments], env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def shell(self, code):
        return self.run("shell", "--verbosity", "0", "--command", code)


@pytest.fixture
def archiving(tmp_path_factory):
    """A server that archives its log, and the folder of the archive."""
    with server_of_its_own() as own:
        archive = own.server.data.parent / "archive"
        archive.mkdir()
        own.server._hand_over(archive)
        copy = f"archive_command='cp %p {archive}/%f'"
        own.server.stop()
        server = Server(own.server.data, options=("archive_mode=on", copy))
        server.start()
        yield server, archive


def base_backup(server):
    target = server.data.parent / "restored"
    target.mkdir(mode=0o700)
    server._hand_over(target)
    where = ["-D", str(target), "-h", str(server.socket_directory), "-U", "postgres", "-c", "fast"]
    command = [str(_binaries() / "pg_basebackup"), *where]
    subprocess.run(command, check=True, cwd="/", stderr=subprocess.DEVNULL, **unprivileged())
    (target / ".s.PGSQL.5432.lock").unlink()  # the socket is in the data directory here
    return target


def recovered(target, archive, moment):
    """The server in `target`, with what the archive has up to `moment`."""
    with (target / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = 'cp {archive}/%f %p'\n")
        file.write(f"recovery_target_time = '{moment}'\nrecovery_target_action = 'promote'\n")
    (target / "recovery.signal").touch()
    server = Server(target)
    server.start()
    wait_for(lambda: ask(server, "SELECT pg_is_in_recovery()") == [False], 30, "the end of the recovery")
    return server


def commands(step):
    """Of one step of the page, as the arguments of manage.py."""
    text = PAGE[PAGE.index(f"**{step}.") : PAGE.index(f"**{step + 1}.")]
    (block,) = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line)[3:] for line in block.splitlines()]


def ask(server, query):
    with psycopg.connect(server.url(), autocommit=True) as connection:
        return [value for (value,) in connection.execute(qualified(query))]


def states(server):
    return sorted(ask(server, "SELECT state FROM pgonly_job"))


def figures(server):
    """How many sessions there are, schedules that tick, entries of the durable cache and of the other."""
    tables = (
        "pgonly_session",
        "pgonly_schedule WHERE paused_at IS NULL",
        "pgonly_cache_durable",
        "pgonly_cache",
    )
    return [ask(server, f"SELECT count(*) FROM {table}")[0] for table in tables]


WITH_THE_OLD_SERVER = """
print(cancel_what_has_run("before"))
bring_steps("before")
print(list(Step.objects.values_list("job__task", "name", "result")))
"""


def test_after_a_recovery_no_job_runs_until_a_person_says_so(archiving):
    server, archive = archiving
    old = Site(server.url())
    old.shell(BEFORE)
    worker = old.start("runworker", "--queues", "default")
    try:
        wait_for(lambda: states(server) == ["ready", "running", "scheduled"], 60, "the long job to run")
        target = base_backup(server)
        (moment,) = ask(server, "SELECT clock_timestamp()::text")
        old.shell(AFTER_THE_MOMENT)
    finally:
        worker.kill()
        worker.communicate()
    old.run("runworker", "--queues", "mail", "--burst")
    ask(server, "SELECT pg_switch_wal()::text")
    wait_for(lambda: not list((server.data / "pg_wal/archive_status").glob("*.ready")), 30, "the archive")
    restored = recovered(target, archive, moment)
    try:
        new = Site(restored.url(), before=server.url())
        assert states(restored) == ["ready", "running", "scheduled"]
        assert figures(restored) == [1, 1, 1, 0]

        assert "1 sessions ended" in new.shell(snippet("how-to/backup.md", "unfinished ="))
        (worker, *rest), showing = commands(4)
        new.run(worker, *[value.replace("150", "5") for value in rest])
        assert "running" not in new.run(*showing).partition("\n")[2]
        hold, resume = commands(5)
        new.run(*hold)
        assert states(restored) == ["held", "held", "held"]
        assert figures(restored) == [0, 0, 1, 0]

        told = new.shell(snippet("how-to/backup.md", "def bring_steps") + WITH_THE_OLD_SERVER)
        assert told.splitlines() == ["1", "[('tests.jobs.pause', 'paid', 'answer')]"]
        assert states(restored) == ["cancelled", "held", "held"]
        new.run(*resume)
        new.run("runworker", "--burst")
        assert states(restored) == ["cancelled", "held", "held"]
    finally:
        restored.stop("immediate")
