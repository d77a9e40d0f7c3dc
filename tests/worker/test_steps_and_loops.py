"""What a job keeps over its runs, and what it must not keep."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from pgonly_django.models import State
from tests.jobs import ending, logging_jobs, looping, paying
from tests.waiting import wait_for


@pytest.mark.slow
def test_a_step_whose_name_cannot_be_kept_is_refused_before_it_is_paid(run_jobs, marks):
    result = paying.pay_under.enqueue("x" * 256)
    run_jobs()
    assert marks() == []
    assert "1 to 255 characters" in result.job.errors[0]["message"]
    paying.pay_under.enqueue("x" * 255)
    run_jobs()
    assert marks() == ["paid k"]


def test_a_step_whose_result_is_no_json_is_paid_once(ran, marks):
    job = ran(paying.pay_for_what_is_no_json).job
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert marks() == ["paid k"]


def test_a_loop_inside_a_transaction_that_is_rolled_back_begins_again(ran, marks):
    assert ran(looping.loop_in_a_transaction, "k").job.state == State.SUCCEEDED
    assert sorted(marks()) == [f"k:{i}" for i in range(5)]


def test_a_loop_inside_a_transaction_that_was_committed_is_not_made_again(ran, marks):
    assert ran(looping.loop_behind_a_transaction, "k").job.state == State.SUCCEEDED
    assert sorted(marks()) == [f"k:{i}" for i in range(3)]


def test_a_second_loop_under_the_name_of_a_completed_one_is_refused(ran, marks):
    job = ran(looping.loop_twice, "k").job
    assert job.state == State.FAILED
    assert "Give each loop its own name" in job.errors[0]["message"]
    assert marks() == ["k:a", "k:b"]


@pytest.mark.slow
@pytest.mark.parametrize("task", [looping.roll_back_and_note, looping.roll_back_and_note_async])
def test_a_loop_that_was_rolled_back_is_made_again_though_something_else_was_saved(ran, marks, task):
    job = ran(task, "k").job
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    assert sorted(marks()) == [f"k:{i}" for i in range(5)]


def test_a_checkpoint_is_what_it_was_when_it_was_saved(ran):
    result = ran(paying.sum_up)
    assert result.wait(1).return_value == 2  # the first item is done, and was not saved with its sum
    assert result.job.attempt == 2


def test_a_step_gives_the_same_in_the_first_run_and_in_later_ones(ran):
    result = ran(paying.compare_answers)
    assert result.wait(1).return_value is True


@pytest.mark.slow
@pytest.mark.parametrize("gathers", [False, True])
def test_a_stop_reaches_a_job_through_its_groups_of_calls(background_worker, marks, gathers):
    """An ExceptionGroup hides the interruption, gather(return_exceptions=True) swallows it."""
    worker = background_worker(grace_seconds=10.0)
    result = paying.call_in_groups.enqueue("k", gathers)
    wait_for(lambda: "k:started" in marks())
    worker.stop()
    wait_for(lambda: result.job.state == State.READY, what="its release")
    assert (result.job.attempt, result.job.interruptions) == (0, 1)


def test_a_discard_in_a_group_of_calls_is_one(ran):
    job = ran(ending.give_up_in_a_group).job
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.errors[0]["reason"] == "pointless"


def test_a_paid_step_survives_a_primary_that_becomes_a_standby(ran, marks):
    result = ran(paying.pay_through_a_failover)
    assert result.wait(1).return_value == 7
    assert marks() == ["paid k"]


@pytest.mark.parametrize("task", [paying.pay_under, paying.apay_under])
def test_a_step_keeps_when_its_call_began(ran, task):
    job = ran(task, "ask").job
    (step,) = job.steps.all()
    assert job.attempted_at <= step.started_at <= step.finished_at


def test_an_error_names_the_step_that_raised_it_and_when_that_began(ran):
    job = ran(logging_jobs.fail_in_step).job
    assert job.errors[0]["step"] == "broken"
    # The worker counts from the claim by its own clock, and the claim's way to the server is part of that.
    began = datetime.fromisoformat(job.errors[0]["step_started_at"])
    assert job.attempted_at <= began <= job.finished_at + timedelta(seconds=1)
    assert not job.steps.exists()


def test_an_object_that_each_run_raises_names_the_innermost_step_of_each(ran):
    for name in ("ask", "answer"):
        (entry,) = ran(logging_jobs.fail_in_nested_steps, name).job.errors
        assert entry["step"] == f"{name} inside"


def test_an_error_between_two_steps_names_none(ran):
    assert ran(logging_jobs.fail_after_step).job.errors[0].keys().isdisjoint({"step", "step_started_at"})
