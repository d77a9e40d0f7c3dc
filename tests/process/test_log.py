"""What a real worker logs: on the terminal, and with the LOGGING of the docs."""

from __future__ import annotations

import signal

import pytest

from pgonly_django.models import Worker
from tests import jobs
from tests.jobs import logging_jobs
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]
HOSTILE = "tests.process.hostile_log_settings"


def test_with_the_logging_of_the_docs_each_end_stands_once_and_each_line_of_a_job_names_it(workers):
    good, bad = (
        logging_jobs.log_in_thread.enqueue("from the job"),
        jobs.fail.using(max_attempts=1).enqueue("no"),
    )
    worker = workers.start("--burst", DJANGO_SETTINGS_MODULE="tests.process.logging_settings")
    assert worker.wait() == 0
    lines = worker.output.splitlines()
    (of_the_job,) = [line for line in lines if line.endswith("from the job")]
    assert f"[{good.task.module_path} {good.id} attempt 1]" in of_the_job
    assert sum(f"{good.id}: succeeded" in line for line in lines) == 1
    assert sum(bad.id in line for line in lines) == 1
    assert worker.output.count("Traceback (most recent call last)") == 1
    assert "django.tasks" not in worker.output
    assert "django_tasks" not in worker.output
    assert "[- - attempt -] Worker worker-0 runs jobs of all queues on default (" in worker.output
    assert lines[-1].endswith("[- - attempt -] Stopped after 2 job(s).")
    assert "threads   " not in worker.output  # the banner of a terminal


def test_verbosity_0_shows_nothing_of_jobs_that_succeed(workers):
    result = jobs.add.enqueue(1)
    worker = workers.start("--burst", "--verbosity", "0")
    assert worker.wait() == 0
    assert result.wait(10).return_value == 2
    assert worker.output == ""


@pytest.mark.parametrize("flags", [("--burst",), ("--max-seconds", "4")])
def test_a_worker_whose_handler_hangs_ends_as_it_should(workers, flags):
    result = jobs.add.enqueue(1)
    worker = workers.start(*flags, ready=False, DJANGO_SETTINGS_MODULE=HOSTILE, TEST_LOG="hangs")
    assert worker.wait() == 0, worker.output
    assert result.wait(10).return_value == 2
    assert Worker.objects.get().stopped_at is not None


def test_a_stop_of_a_worker_whose_handler_hangs_is_a_planned_one(workers):
    worker = workers.start("--grace-seconds", "1", DJANGO_SETTINGS_MODULE=HOSTILE, TEST_LOG="hangs")
    assert jobs.add.enqueue(1).wait(20).return_value == 2
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0, worker.output


def test_a_process_that_a_handler_forks_logs_nothing_more(workers):
    results = [jobs.add.enqueue(number) for number in range(4)]
    worker = workers.start("--burst", ready=False, DJANGO_SETTINGS_MODULE=HOSTILE, TEST_LOG="forks")
    assert worker.wait() == 0, worker.output
    wait_for(lambda: "Stopped after 4 job(s)." in worker.output)
    for result in results:
        assert worker.output.count(f"\ntests.jobs.add {result.id}: succeeded") == 1
