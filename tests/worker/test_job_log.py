"""Each run that ends leaves one line in the log: how, and after how long."""

from __future__ import annotations

import logging
import re
from datetime import timedelta

import pytest

from pgonly_django.models import Job, State
from tests import jobs
from tests.jobs import ending, holding, policies, transactions
from tests.waiting import wait_for

SUCCEEDED = r"succeeded after [\d.]+ [mu]?s \(attempt 1 of \d\)\."
ENDS = ("worker.job_ended", "worker.attempt_failed", "worker.task_unknown")


@pytest.fixture
def lines(events):
    """What was said of the end of a job's runs: level and message."""
    return lambda result: [(r.levelname, r.getMessage()) for r in events(*ENDS) if r.job_id == result.id]


@pytest.mark.parametrize(
    ("task", "arguments", "expected", "tracebacks"),
    [
        (jobs.add, (1,), [("INFO", SUCCEEDED)], 0),
        (jobs.add_async, (1, 1), [("INFO", SUCCEEDED)], 0),
        (transactions.mark_atomically, ("k",), [("INFO", SUCCEEDED)], 0),
        (
            ending.give_up,
            (),
            [("WARNING", r"discarded after [\d.]+ [mu]?s \(attempt 1 of \d\): pointless")],
            0,
        ),
        (
            ending.snooze_for_ages,
            (),
            [("INFO", r"snoozed after .* \(attempt 1 of \d\); again in 36500 d\.$")],
            0,
        ),
        (
            ending.ask_for_retry,
            (),
            [
                ("INFO", r"retried after .*\(attempt 1 of 2\); again in"),
                ("ERROR", r"failed after .*\(attempt 2 of 2\); it is"),
            ],
            0,
        ),
        (
            jobs.fail.using(max_attempts=2),
            ("broken",),
            [
                ("WARNING", r"failed with ValueError after [\d.]+ [mu]?s \(attempt 1 of 2\); again in 0 s\."),
                ("ERROR", r"failed with ValueError after .* \(attempt 2 of 2\); it is not started again\."),
            ],
            2,
        ),
        (
            jobs.sleep_in_slices.using(max_runtime=timedelta(seconds=0.2), max_attempts=1),
            ("k",),
            [("ERROR", r"timed out after [\d.]+ s \(attempt 1 of 1\); it is not started again\.")],
            1,
        ),
        (
            holding.ask_a_person,
            ("k",),
            [("WARNING", r"held after .* \(attempt 1 of \d\): Is this right\?")],
            0,
        ),
        (policies.judged, ("money",), [("WARNING", r"held after .* \(attempt 1 of 3\): .*NoMoneyError")], 1),
        (
            policies.judged,
            ("rate",),
            [("INFO", r"snoozed after .* \(attempt 1 of 3\); again in .*: RateLimitedError: rate$")],
            0,
        ),
        (
            policies.judged,
            ("value",),
            [("ERROR", r"failed with ValueError after .* \(attempt 1 of 3\); it is")],
            1,
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_each_end_has_one_line_with_its_duration_and_the_traceback_of_a_failure(
    ran, lines, marks, caplog, task, arguments, expected, tracebacks
):
    result = ran(task, *arguments)
    said = lines(result)
    assert len([r for r in caplog.records if r.exc_info and r.name == "pgonly_django.worker"]) == tracebacks
    assert [level for level, _ in said] == [level for level, _ in expected]
    for (_, message), (_, pattern) in zip(said, expected, strict=True):
        assert message.startswith(f"{task.module_path} {result.id}: ")
        assert re.search(pattern, message), message


def test_a_task_that_is_not_known_has_one_line(run_jobs, lines):
    result = jobs.add.enqueue(1)
    Job.objects.filter(pk=result.id).update(task="tests.jobs.gone")
    run_jobs()
    ((level, message),) = lines(result)
    assert level == "WARNING"
    assert "Cannot import the task tests.jobs.gone" in message
    assert "is looked for again for 1 h. If this worker has older code than the job, restart it." in message


@pytest.mark.parametrize("task", [jobs.hold_on, jobs.stubborn])
def test_a_released_job_is_named_and_not_counted(background_worker, lines, marks, task):
    worker = background_worker(grace_seconds=0.5)
    done, result = jobs.add.enqueue(1), task.enqueue("k", 5.0)
    wait_for(lambda: "k:started" in marks() and done.job.state == State.SUCCEEDED)
    worker.stop()
    wait_for(lambda: result.job.state == State.READY)
    assert worker.left.wait(10)
    ((level, message),) = lines(result)
    assert level == "INFO"
    assert re.search(r"released after [\d.]+ m?s \(attempt 1 of \d\): Its worker was stopped", message)
    assert (worker.following.jobs_done, worker.following.jobs_released) == (1, 1)


def test_a_cancelled_job_has_one_line(background_worker, lines, marks):
    background_worker(grace_seconds=0.5)
    result = jobs.sleep_in_slices.enqueue("k", 5.0)
    wait_for(lambda: "k:started" in marks())
    result.cancel()
    wait_for(lambda: lines(result), what="its line")
    ((level, message),) = lines(result)
    assert level == "INFO"
    assert re.search(r"cancelled after [\d.]+ m?s \(attempt 1 of \d\): Cancelled while it ran", message)


def test_starts_and_successes_are_not_logged_below_the_level_of_the_logger(ran, caplog):
    caplog.set_level(logging.WARNING, "pgonly_django.worker")
    ran(jobs.add, 1)
    assert [record for record in caplog.records if hasattr(record, "event")] == []


def test_a_start_is_logged_at_debug(run_jobs, events, caplog):
    caplog.set_level(logging.DEBUG, "pgonly_django.worker")
    results = [task.enqueue(1, 1) for task in (jobs.add, jobs.add_async)]
    run_jobs()
    started = events("worker.job_started")
    assert sorted(record.job_id for record in started) == sorted(result.id for result in results)
    assert all(record.message.endswith(": started (attempt 1 of 8).") for record in started)
