"""A released version and today's side by side on today's tables, as during a rolling deploy: enqueue, claim, rescue
and finish of both, also while a migration is applied. What a migration may do: tests/test_additive_migrations.py."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django.db import connection, connections
from django.db.migrations.recorder import MigrationRecorder

from pgonly_django import enqueue_many
from pgonly_django.models import Job, State, Worker
from tests.aliases import alias
from tests.conftest import MARKS
from tests.process.conftest import RealWorker, database_url
from tests.released import ROOT, environment_of, jobs, manage, unpack
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]

JOBS, OF_EACH, KILLS = 200, 2, 4
MANY, FEW, SECONDS = 90, 10, 0.25
ENQUEUE = f"""
from pgonly_django import enqueue_many
from tests.released import jobs
enqueue_many([(jobs.once, (f"old {{n}}", {SECONDS})) for n in range({MANY})])
for n in range({FEW}):
    jobs.once_alone.using(unique=True).enqueue(f"old alone {{n}}", 0.02)
    jobs.once_alone.using(unique=True).enqueue(f"old alone {{n}}", 0.02)
print(jobs.FOLDER)
"""


@dataclass
class Version:
    """Starts processes of one version of the package."""

    package: Path
    environment: dict[str, str]
    directory: Path
    database: str
    started: list[RealWorker] = field(default_factory=list)

    def start(self, *flags: str, is_ready: bool = True) -> RealWorker:
        name = f"{self.package.name}-{len(self.started)}"
        log = self.directory / f"{name}.log"
        command = [sys.executable, "-m", "django", "runworker", "--name", name, "--threads", "4", *flags]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=self.environment, cwd=self.package, stdout=output, stderr=output
            )
        worker = RealWorker(process, name, log)
        self.started.append(worker)
        if is_ready:
            wait_for(
                lambda: self.is_registered(name) or process.poll() is not None,
                what=f"{name} to start",
            )
            assert process.poll() is None, worker.output
        return worker

    def is_registered(self, name: str) -> bool:
        return Worker.objects.using(self.database).filter(name=name).exists()

    def manage(self, *arguments: str) -> str:
        return manage(self.package, self.environment, *arguments)

    def alive(self) -> list[RealWorker]:
        return [worker for worker in self.started if worker.process.poll() is None]

    def busy(self) -> list[RealWorker]:
        """Those that run jobs, in random order."""
        running = set(Job.objects.running().values_list("worker_id", flat=True))
        names = set(Worker.objects.filter(pk__in=running).values_list("name", flat=True))
        busy = [worker for worker in self.alive() if worker.name in names]
        return random.sample(busy, len(busy))


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    return unpack("schema_0006.whl.xz", tmp_path_factory.mktemp("released"))


@pytest.fixture
def start_versions(transactional_db, released, tmp_path):
    """The released version and today's, in the database of an alias."""
    made = []

    def start(database):
        url = database_url(connections[database].settings_dict)
        packages = (released, ROOT)
        made.extend(
            Version(each, environment_of(each, DATABASE_URL=url), tmp_path, database) for each in packages
        )
        return made

    yield start
    for version in made:
        for worker in version.alive():
            worker.kill()


@pytest.fixture
def versions(start_versions):
    return start_versions("default")


@pytest.fixture
def empty_database(transactional_db, any_database):
    """The alias of a database without tables."""
    name = f"{connection.settings_dict['NAME']}_of_versions"
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
    with alias("migrated", NAME=name):
        yield "migrated"
    with connection.cursor() as cursor:
        cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_both_versions_enqueue_and_run_each_job_once_while_workers_are_killed(versions, marks):
    old, new = versions
    for _ in range(OF_EACH):
        old.start()
        new.start()
    enqueued_by = old.manage("shell", "-c", ENQUEUE)
    assert enqueued_by.split()[-1] == old.package.name
    enqueue_many([(jobs.once, (f"new {n}", SECONDS)) for n in range(MANY)])
    for n in range(FEW):
        jobs.once_alone.using(unique=True).enqueue(f"new alone {n}", 0.02)
    assert Job.objects.count() == JOBS
    for kill in range(KILLS):
        done = JOBS * kill // (2 * KILLS)
        wait_for(lambda done=done: len(marks()) > done, what=f"more than {done} jobs")
        version = versions[kill % 2]
        wait_for(version.busy, what="a worker with jobs")[0].kill()
        version.start(is_ready=False)
    wait_for(lambda: Job.objects.filter(state=State.SUCCEEDED).count() == JOBS, 60, "all jobs to succeed")
    assert Job.objects.filter(lease_epoch__gt=1).count() >= KILLS
    by_key = Counter(mark.rpartition(" ")[0] for mark in marks())
    assert len(by_key) == JOBS
    assert set(by_key.values()) == {1}
    assert {mark.rpartition(" ")[2] for mark in marks()} == {old.package.name, new.package.name}


@pytest.mark.parametrize("first", [0, 1], ids=["released version first", "released version last"])
def test_a_job_that_one_version_began_is_resumed_by_the_other(versions, marks, first):
    began, ends = versions[first], versions[1 - first]
    killed = began.start()
    result = jobs.in_two_steps.enqueue("job")
    wait_for(lambda: f"job:second {began.package.name}" in marks(), what="the second step")
    killed.kill()
    ends.start()
    wait_for(lambda: f"job:second {ends.package.name}" in marks(), what="the other version to take over")
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO tests_mark (key) VALUES ('go on')")
    assert result.wait(30).return_value == [began.package.name, ends.package.name]
    assert [mark for mark in marks() if mark.startswith("job:first")] == [f"job:first {began.package.name}"]
    assert result.job.attempt == 1
    assert [entry["outcome"] for entry in result.job.errors] == ["crashed"]


def test_todays_migrations_are_applied_while_the_released_version_runs(start_versions, empty_database):
    old, new = start_versions(empty_database)
    old.manage("migrate", "--verbosity", "0")
    with connections[empty_database].cursor() as cursor:
        cursor.execute(MARKS)
    assert newest_migration(empty_database) == "0006_limits"
    of_old = old.start()
    old.manage("shell", "-c", ENQUEUE)
    new.manage("migrate", "--verbosity", "0")
    assert newest_migration(empty_database) > "0006_limits"
    new.start()
    old.manage("shell", "-c", ENQUEUE.replace("old ", "later "))
    succeeded = Job.objects.using(empty_database).filter(state=State.SUCCEEDED)
    wait_for(lambda: succeeded.count() == 2 * (MANY + FEW), 60, "all jobs to succeed")
    assert old.alive() == [of_old]
    assert "Traceback" not in of_old.output
    with connections[empty_database].cursor() as cursor:
        cursor.execute("SELECT key FROM tests_mark")
        marks = [key.rpartition(" ") for (key,) in cursor.fetchall()]
    assert len({key for key, _, _ in marks}) == len(marks) == 2 * (MANY + FEW)
    assert {folder for _, _, folder in marks} == {old.package.name, new.package.name}


def newest_migration(database):
    return max(MigrationRecorder(connections[database]).applied_migrations(), key=is_ours)[1]


def is_ours(migration):
    app, name = migration
    return (app == "pgonly_django", name)


def test_a_worker_of_today_rescues_the_job_of_a_released_one(versions, marks):
    """Its own queue gets no job and no NOTIFY."""
    old, new = versions
    killed = old.start()
    new.start("--queues", "other")
    result = jobs.in_two_steps.enqueue("job")
    wait_for(lambda: f"job:second {old.package.name}" in marks(), what="the second step")
    killed.kill()
    wait_for(lambda: result.job.state == State.READY, what="the rescue")
    assert [entry["outcome"] for entry in result.job.errors] == ["crashed"]
