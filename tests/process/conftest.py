from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from benchmarks.servers import free_port
from pgonly_django.models import Worker
from tests import children, in_memory, zygote
from tests.children import ROOT
from tests.waiting import wait_for

LEASE_SECONDS = 2


@dataclass
class RealWorker:
    """A `manage.py runworker` process."""

    process: subprocess.Popen | zygote.Process
    name: str
    log: Path

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.send(signal.SIGKILL)
        self.process.wait(10)

    def wait(self, seconds=30):
        return self.process.wait(seconds)

    @property
    def output(self):
        return self.log.read_text()


@dataclass
class Workers:
    """Starts workers, each with its own log file, and ends them all with the test."""

    directory: Path
    url: str
    starts_afresh: bool = False  # an interpreter for each, where a fork of the zygote would do
    started: list[RealWorker] = field(default_factory=list)

    def __post_init__(self):
        self.usual_url = self.url

    def start(self, *flags, lease=LEASE_SECONDS, ready=True, shell="", **environment):
        """`shell`: what a shell is told around the command, as in 'ulimit -n 64; exec "$@" >&-'."""
        name = f"worker-{len(self.started)}"
        log = self.directory / f"{name}.log"
        usual = {"DATABASE_URL": self.url, "TEST_LEASE_SECONDS": str(lease), "PYTHONUNBUFFERED": "1"}
        env = children.environment(children.OF_WORKERS, **(usual | environment))
        command = [str(ROOT / "manage.py"), "runworker", "--name", name, *flags]
        with log.open("w") as output:
            if shell or self.starts_afresh or not zygote.can_fork(env):
                start = ["sh", "-c", shell, "sh"] if shell else []
                process = subprocess.Popen(
                    [*start, sys.executable, *command],
                    env=env, cwd=ROOT, stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
            else:
                as_usual = not environment and lease == LEASE_SECONDS and self.url == self.usual_url
                process = zygote.start(command, env=env, output=output, errors=output, prepared=as_usual)
        worker = RealWorker(process, name, log)
        self.started.append(worker)
        if ready:
            wait_for(
                lambda: self.is_registered(worker) or process.poll() is not None, what=f"{name} to start"
            )
        return worker

    def is_registered(self, worker):
        return Worker.objects.filter(name=worker.name, pid=worker.process.pid).exists()

    def end(self):
        for worker in self.started:
            with contextlib.suppress(ProcessLookupError):  # the group: --reload has a child
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait(10)


@pytest.fixture
def hangups_end_processes():
    """Under nohup SIGHUP is ignored, also in every process that the tests start. One with a handler is not: exec
    gives it back to the default."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, before)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def workers(request, transactional_db, tmp_path, hangups_end_processes):
    mark = request.node.get_closest_marker("process")
    fleet = Workers(tmp_path, children.database_url(), **(mark.kwargs if mark else {}))
    yield fleet
    fleet.end()


class OwnServer:
    """A PostgreSQL of the test's own, migrated, that may be crashed."""

    def __init__(self, server):
        self.server = server
        self._manage("migrate", "--verbosity", "0")

    def url(self):
        return self.server.url()

    def restart(self, mode):
        self.server.restart(mode)

    def enqueue_pauses(self, count, seconds):
        code = (
            "from pgonly_django import enqueue_many; from tests import jobs; "
            f"enqueue_many([(jobs.pause, ({seconds},)) for _ in range({count})])"
        )
        self._manage("shell", "-c", code)

    def enqueue(self, task, args):
        code = (
            "from django.utils.module_loading import import_string; "
            f"import_string({task!r}).enqueue(*{args!r})"
        )
        self._manage("shell", "-c", code)

    def results(self):
        with psycopg.connect(self.url()) as connection:
            return [result for (result,) in connection.execute("SELECT result FROM pgonly_job").fetchall()]

    def execute(self, sql):
        """The rows, where it returns any."""
        with psycopg.connect(self.url()) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def count(self, state=None):
        with psycopg.connect(self.url()) as connection:
            query = "SELECT count(*) FROM pgonly_job WHERE %(state)s::text IS NULL OR state = %(state)s"
            return connection.execute(query, {"state": state}).fetchone()[0]

    def _manage(self, *arguments):
        env = children.environment(DATABASE_URL=self.url())
        zygote.run(["manage.py", *arguments], env=env).check_returncode()


@contextlib.contextmanager
def server_of_its_own(port=None):
    with in_memory.new_server(port) as server:
        yield OwnServer(server)


@pytest.fixture
def own_server():
    with server_of_its_own() as server:
        yield server


@pytest.fixture
def own_server_on_tcp():
    with server_of_its_own(free_port()) as server:
        yield server
