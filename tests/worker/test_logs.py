"""Lines that the code of a job logs say which job it is."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from pgonly_django.current_job import current_job
from pgonly_django.logs import JobFilter
from tests.docs.pages import snippet
from tests.jobs import logging_jobs


@pytest.fixture
def lines():
    """What a handler with the filter gets: message, job, task, attempt and worker."""

    class Keeping(logging.Handler):
        def emit(self, record):
            kept.append((record.getMessage(), record.job_id, record.task, record.attempt, record.worker))

    kept, handler, logger = [], Keeping(), logging_jobs.logger
    handler.addFilter(JobFilter())
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.INFO
    yield kept
    logger.removeHandler(handler)
    logger.setLevel(level)


def of(result, message, attempt=1):
    return (message, result.id, result.task.module_path, attempt, "a worker")


def test_a_line_from_a_slot_thread_has_its_job(work, lines):
    results = [logging_jobs.log_in_thread.enqueue(f"job {number}") for number in range(6)]
    work(threads=2, name="a worker")
    assert sorted(lines) == sorted(of(result, f"job {number}") for number, result in enumerate(results))


def test_a_line_of_async_code_has_its_job_wherever_it_runs(work, lines):
    results = {word: logging_jobs.log_in_async.enqueue(word) for word in "abc"}
    below_run = logging_jobs.log_in_run.enqueue("d")
    work(threads=3, name="a worker")
    places = ("task", "sync_to_async", "any thread", "to_thread", "gathered", "created")
    assert sorted(lines) == sorted(
        [of(result, f"{word}: {place}") for word, result in results.items() for place in places]
        + [of(below_run, "d: run")]
    )


def test_nothing_of_a_job_is_left_behind_it(work, lines):
    logging_jobs.log_in_thread.enqueue("a")
    worker = work(threads=1, name="a worker")
    assert current_job.get() is None
    logging_jobs.logger.info("outside")
    assert lines[-1] == ("outside", "-", "-", "-", "-")
    assert worker.following.jobs_done == 1


def test_what_a_record_has_already_stays(lines):
    logging_jobs.logger.info("a", extra={"task": "mine", "job_id": 7})
    assert lines == [("a", 7, "mine", "-", "-")]


def test_the_lines_of_the_worker_say_the_same_of_a_job(work, caplog):
    caplog.set_level(logging.DEBUG, "pgonly_django.worker")
    result = logging_jobs.log_and_fail.enqueue("a")
    work(name="a worker")
    records = [record for record in caplog.records if getattr(record, "job_id", "") == result.id]
    assert [record.event for record in records] == ["worker.job_started", "worker.attempt_failed"] * 2
    assert [(r.task, r.attempt, r.worker) for r in records] == [
        (result.task.module_path, attempt, "a worker") for attempt in (1, 1, 2, 2)
    ]


def test_the_settings_of_the_docs_configure_logging_before_apps_are_loaded():
    """In a process of its own, as django.setup() does it."""
    code = (
        f"{snippet('how-to/observability.md', 'JobFilter')}\n"
        "import logging.config; logging.config.dictConfig(LOGGING)\n"
        "logging.getLogger('shop.tasks').warning('sold out')\n"
        "import sys; assert not any(name.startswith('pgonly_django.models') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "WARNING shop.tasks [- - attempt -] sold out" in done.stderr
