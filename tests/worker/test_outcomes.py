from __future__ import annotations

import pytest
from django.utils import timezone

from pgonly_django.compat import TaskResultStatus
from pgonly_django.models import State
from tests import jobs
from tests.jobs import ending, unstorable


def test_a_discard_with_an_exception_as_reason_has_its_text(run_jobs):
    result = ending.discard_with_an_exception.enqueue()
    run_jobs()
    assert (result.job.state, result.job.errors[0]["reason"]) == (State.FAILED, "the cause")


def test_backoff_schedules_the_retry(run_jobs):
    result = jobs.fail.using(
        backoff=jobs.Backoff(base=timezone.timedelta(hours=1), cap=timezone.timedelta(hours=1))
    )
    result = result.enqueue()
    run_jobs()
    job = result.job
    assert job.state == State.SCHEDULED
    assert job.attempt == 1
    result.refresh()
    assert result.status == TaskResultStatus.READY


def test_a_snoozed_job_runs_again_without_using_an_attempt(marks, background_worker):
    background_worker()
    result = ending.snooze_once.enqueue("k")
    assert result.wait(20).return_value == "awake"
    assert result.job.attempt == 1
    assert marks() == ["k", "k"]


def test_a_job_that_polls_goes_to_the_end_of_its_queue_though_it_has_saved_a_step(run_jobs):
    result = ending.submit_and_poll.enqueue()
    place = result.job.ready_at
    run_jobs()
    assert result.job.state == State.SCHEDULED
    assert result.job.ready_at > place


def test_retry_uses_the_attempt_and_its_own_delay(run_jobs):
    result = ending.ask_for_retry.enqueue()
    run_jobs()
    assert result.job.state == State.FAILED
    assert [entry["outcome"] for entry in result.job.errors] == ["retried", "retried"]


def test_discard_fails_at_once_with_the_reason(run_jobs):
    result = ending.give_up.enqueue()
    run_jobs()
    job = result.job
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.errors[0]["reason"] == "pointless"


@pytest.mark.parametrize("task", [unstorable.return_nul, unstorable.return_nan])
def test_a_result_that_json_cannot_hold_fails_only_its_own_job(run_jobs, task):
    bad = task.enqueue()
    good = [jobs.add.enqueue(i) for i in range(10)]
    run_jobs()
    assert bad.job.state == State.FAILED
    assert "The return value of" in bad.job.errors[0]["message"]
    assert bad.job.attempt == 1
    assert [result.wait(1).return_value for result in good] == [i + 1 for i in range(10)]


def test_an_exception_with_unstorable_text_is_stored_readably(run_jobs):
    result = unstorable.raise_nul.enqueue()
    run_jobs()
    assert result.job.errors[0]["message"] == "bad \\x00 text \\ud800"
