"""What a person sees who starts a worker, rightly or wrongly."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pgonly_django.models import Job, Worker
from tests import jobs
from tests.aliases import new_database
from tests.children import database_url
from tests.process.supervised import touching
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.mark.process(starts_afresh=True)
def test_the_banner_says_one_fact_a_line_also_of_what_a_variable_sets(workers):
    worker = workers.start("--burst", "--queues", "b,a", PGONLY_WORKER_QUEUES="x", PGONLY_WORKER_THREADS="3")
    assert worker.wait() == 0
    lines = worker.output.splitlines()
    assert "queues    b, a" in lines
    assert "threads   3" in lines
    assert any(line.startswith("stop") and "twice" in line for line in lines)
    assert lines[-1].endswith(" INFO Stopped after 0 job(s).")


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (["--threads", "0"], {}, "--threads must be from 1 to 500, got 0."),
        (["--database", "elsewhere"], {}, "--database 'elsewhere' is not in DATABASES. Known: default."),
        ([], {"PGONLY_WORKER_THREADS": "many"}, "PGONLY_WORKER_THREADS must be a whole number, got 'many'."),
    ],
)
def test_a_wrong_flag_or_variable_ends_with_what_is_wrong(workers, flags, environment, words):
    worker = workers.start(*flags, ready=False, **environment)
    assert worker.wait() == 2
    assert words in worker.output


def test_a_variable_that_nothing_reads_is_warned_about(workers):
    worker = workers.start("--burst", PGONLY_WORKER_THREAD="2", PGONLY_WORKER_NO_LISTEN="0")
    assert worker.wait() == 0
    assert "PGONLY_WORKER_THREAD is not a setting. Did you mean 'PGONLY_WORKER_THREADS'?" in worker.output
    assert "PGONLY_WORKER_NO_LISTEN is" not in worker.output


def test_a_queue_and_a_database_that_tasks_do_not_enqueue_to_are_warned_about(workers):
    settings = {"DJANGO_SETTINGS_MODULE": "tests.process.jobs_settings"}
    worker = workers.start("--burst", "--queues", "mial,ai", **settings)
    assert worker.wait() == 0
    assert "--queues mial: not in the QUEUES of TASKS (ai, default, mail)." in worker.output
    worker = workers.start("--burst", "--queues", "mail,ai", "--database", "default", **settings)
    assert worker.wait() == 0
    assert "not in the QUEUES" not in worker.output
    assert "database  default (" in worker.output
    assert "--database default: no entry of TASKS keeps its jobs there." in worker.output


def test_the_database_is_the_one_that_tasks_name(workers):
    result = jobs.count_to.enqueue(5)
    worker = workers.start("--burst", DJANGO_SETTINGS_MODULE="tests.process.jobs_settings")
    assert worker.wait() == 0
    assert "database  jobs (" in worker.output
    assert "W001" not in worker.output
    result.refresh()
    assert result.return_value == 30


def test_missing_tables_end_with_the_command_to_type(workers):
    with new_database("empty") as name:
        workers.url = database_url(NAME=name)
        worker = workers.start(ready=False)
        assert worker.wait() == 1
        assert "python manage.py migrate" in worker.output


def test_no_postgres_ends_with_what_to_try(workers):
    workers.url = "postgres://nobody@127.0.0.1:1/nothing"
    worker = workers.start(ready=False)
    assert worker.wait() == 1
    assert "Cannot reach PostgreSQL" in worker.output
    assert "python manage.py dbshell" in worker.output


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_reason_to_run_no_jobs(workers, streams):
    result = jobs.print_and_open.enqueue()
    worker = workers.start("--burst", ready=False, shell=f'exec "$@" {streams}')
    assert worker.wait() == 0
    result.refresh()
    assert result.return_value > 2
    assert "Traceback" not in worker.output


def test_a_reader_that_has_gone_is_no_reason_to_run_no_jobs(workers):
    """`runworker | head -1`"""
    worker = workers.start(shell='"$@" | head -1', ready=False)
    results = [jobs.fail.using(max_attempts=1).enqueue() for _ in range(3)]  # each of which is logged
    assert [result.wait(20).is_finished for result in results] == [True] * 3
    os.kill(Worker.objects.get(name=worker.name).pid, signal.SIGTERM)
    worker.wait()
    assert Worker.objects.get(name=worker.name).stopped_at is not None
    assert "BrokenPipeError" not in worker.output
    assert "Logging error" not in worker.output


def test_a_worker_that_no_job_can_reach_says_what_to_add(workers):
    worker = workers.start(ready=False, DJANGO_SETTINGS_MODULE="tests.process.immediate_settings")
    assert worker.wait() == 1
    assert 'TASKS = {"default": {"BACKEND": "pgonly_django.tasks.PostgresBackend"}}' in worker.output
    assert "Traceback" not in worker.output


def test_reload_ends_with_what_ends_the_worker(workers):
    result = jobs.add.enqueue(1)
    worker = workers.start("--reload", "--max-idle-seconds", "0.2", ready=False)
    assert worker.wait() == 0
    assert result.wait(1).return_value == 2
    assert "Stopped after 1 job(s)." in worker.output


@pytest.mark.process(starts_afresh=True)
def test_reload_gives_running_jobs_back_and_starts_afresh(workers, marks):
    worker = workers.start("--reload", ready=False)
    result = jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: marks().count("k:started") == 1, what="the first start")
    is_restarted = touching(Path(jobs.__file__), lambda: marks().count("k:started") == 2)
    wait_for(is_restarted, what="the second start")
    job = Job.objects.get(pk=result.id)
    assert (job.attempt, job.interruptions) == (1, 1)
    assert "Stopping: 1 job(s)" in worker.output


@pytest.mark.server
def test_over_tcp_the_server_notices_that_a_worker_has_vanished(own_server_on_tcp, workers):
    """Its side of the connections of jobs: a transaction and its locks go with the machine they belong to."""
    workers.url = own_server_on_tcp.url()
    expected = {
        "tcp_user_timeout": "30000", "tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }  # fmt: skip
    for name in expected:
        own_server_on_tcp.enqueue("tests.jobs.watched.setting", [name])
    assert workers.start("--burst", ready=False).wait() == 0
    assert sorted(own_server_on_tcp.results()) == sorted(expected.values())
