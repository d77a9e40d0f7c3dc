"""A held job takes up no slot and no attempt, and goes on from where it stood."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job, State
from tests.jobs import holding


def test_a_job_that_asks_a_person_is_held_and_goes_on_from_its_checkpoint(run_jobs, marks):
    result = holding.ask_a_person.enqueue("paid")
    run_jobs()
    job = result.job
    assert (job.state, job.held_by, job.attempt, job.finished_at) == (State.HELD, "the job", 0, None)
    assert (job.errors[-1]["outcome"], job.errors[-1]["reason"]) == ("held", "Is this right?")
    run_jobs()
    assert result.job.state == State.HELD
    assert result.resume()
    run_jobs()
    job = result.job
    assert (job.state, job.result, job.attempt, job.held_by) == (State.SUCCEEDED, "asked", 1, None)
    assert marks() == ["paid"]


def test_a_hold_in_a_task_group_holds_the_job(run_jobs):
    result = holding.ask_in_a_group.enqueue()
    run_jobs()
    assert (result.job.state, result.job.held_by) == (State.HELD, "the job")


@pytest.mark.sample(2)
@pytest.mark.parametrize("task", holding.OVER, ids=lambda task: task.name)
def test_a_run_that_is_told_to_end_is_held_whatever_it_makes_of_that(run_jobs, marks, task):
    result = task.enqueue("k")
    run_jobs()
    job = result.job
    assert (job.state, job.held_by, job.attempt) == (State.HELD, "budget:x", 0)
    assert job.errors[-1]["reason"] == "No money is left."
    assert marks() == []


def test_a_held_job_that_was_asked_to_cancel_is_cancelled(run_jobs):
    result = holding.ask_a_person.enqueue("k")
    Job.objects.filter(pk=result.id).update(cancel_requested_at=result.enqueued_at)
    run_jobs()
    assert (result.job.state, result.job.held_by) == (State.CANCELLED, None)


def test_whoever_waits_for_a_held_job_sees_it_as_ready(run_jobs):
    result = holding.ask_a_person.enqueue("k")
    run_jobs()
    assert result.job.state == State.HELD
    result.refresh()
    assert (result.status.name, result.is_finished, result.attempts) == ("READY", False, 0)
