"""A held job takes up no slot and no attempt, and goes on from where it stood."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from pgonly_django.compat import TaskResultStatus
from pgonly_django.context import calls
from pgonly_django.models import Job, State
from pgonly_django.worker import ending as worker_ending
from pgonly_django.worker.ending import FREE_FOR
from tests import jobs
from tests.gate import Gate
from tests.jobs import burying, ending, holding, policies, unstorable
from tests.waiting import wait_for


def test_a_retry_without_a_pause_makes_the_job_ready_at_once(run_jobs):
    result = ending.ask_for_retry.enqueue()
    run_jobs(max_jobs=1)
    assert (result.job.state, result.job.attempt) == (State.READY, 1)


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


def test_retry_uses_the_attempt_and_its_own_delay(ran):
    job = ran(ending.ask_for_retry).job
    assert job.state == State.FAILED
    assert [entry["outcome"] for entry in job.errors] == ["retried", "retried"]


def test_discard_fails_at_once_with_the_reason(ran):
    job = ran(ending.give_up).job
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


def test_an_exception_with_unstorable_text_is_stored_readably(ran):
    assert ran(unstorable.raise_nul).job.errors[0]["message"] == "bad \\x00 text \\ud800"


HOUR = timedelta(hours=1)


def run(work, result):
    work(threads=1)
    return result.job


def run_once(work, result):
    """A snooze of a second may be over before a burst ends."""
    work(threads=1, max_jobs=1)
    return result.job


def make_due(job):
    Job.objects.filter(pk=job.pk).update(run_at=timezone.now() - HOUR)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["value"], ["unicode"], ["rate", "value"], ["money", "value"]])
def test_an_error_that_is_never_retried_fails_its_job_at_once_with_its_traceback(worked, names):
    job = worked(policies.judged, *names).job
    assert (job.state, job.attempt) == (State.FAILED, 1)
    (entry,) = job.errors
    assert entry["outcome"] == "failed"
    assert "is never retried." in entry["reason"]
    assert "raise errors[0]" in entry["traceback"]


@pytest.mark.slow
def test_a_time_out_can_be_named_too(worked):
    job = worked(policies.too_slow).job
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.errors[0]["outcome"] == "timed out"
    assert "JobTimedOut is never retried." in job.errors[0]["reason"]


@pytest.mark.parametrize("names", [["money"], ["money", "rate"]])
def test_an_error_that_holds_keeps_the_job_for_a_person_at_no_cost(worked, names):
    job = worked(policies.judged, *names).job
    assert (job.state, job.attempt) == (State.HELD, 0)
    assert job.held_by in ("error:NoMoneyError", "error:ExceptionGroup")
    assert job.errors[0]["outcome"] == "held"
    assert "NoMoneyError" in job.errors[0]["traceback"]
    assert Job.objects.held().resume() == 1


@pytest.mark.parametrize("names", [["rate"], ["burst"], ["rate", "burst"]])
def test_an_error_that_snoozes_costs_no_attempt_and_still_backs_off(worked, names):
    job = worked(policies.judged, *names).job
    assert (job.state, job.attempt, job.interruptions) == (State.SCHEDULED, 0, 0)
    (entry,) = job.errors
    assert entry["outcome"] == "snoozed"
    assert entry["in_a_row"] >= 1  # more where the second is over before the worker ends
    since = datetime.fromisoformat(entry["finished_at"])
    assert job.run_at - since >= timedelta(seconds=0.9), "a second at least, whatever the backoff says"
    assert "LimitedError" in entry["traceback"]


def test_snoozes_in_a_row_are_counted_for_the_backoff(work):
    result = policies.snoozed_for_an_hour_each.enqueue()
    for number in (1, 2, 3):
        job = run(work, result)
        assert [entry["in_a_row"] for entry in job.errors] == [number], "the errors keep the last in a row"
        assert timedelta(0) < job.run_at - timezone.now() - (number - 1) * HOUR <= HOUR
        make_due(job)
    assert job.attempt == 0


def test_a_snooze_after_an_ordinary_failure_begins_a_row(work):
    result = policies.judged.enqueue("rate")
    Job.objects.filter(pk=result.id).update(errors=[{"outcome": "failed"}])
    assert run_once(work, result).errors[-1]["in_a_row"] == 1


def test_snoozes_that_last_too_long_count_as_any_error(work):
    result = policies.judged.using(max_attempts=1).enqueue("rate")
    job = run(work, result)
    since = (timezone.now() - FREE_FOR - HOUR).isoformat()
    Job.objects.filter(pk=job.pk).update(
        errors=[job.errors[0] | {"since": since}], run_at=timezone.now() - HOUR
    )
    job = run(work, result)
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert "was retried for 7 days, 0:00:00 without counting." in job.errors[-1]["reason"]


def test_a_run_that_has_saved_something_new_begins_another_row_of_snoozes(work):
    result = policies.saves_and_is_limited.enqueue(3)
    for _ in range(3):
        job = run_once(work, result)
        assert job.errors[-1]["in_a_row"] == 1
        make_due(job)


def test_the_policies_of_one_call_win_over_those_of_the_task(worked):
    paths = {"never_retry": (), "snooze_on": "tests.no_such_module.RateLimitedError", "hold_on": ValueError}
    job = worked(policies.judged.using(**paths), "value").job
    assert (job.state, job.held_by) == (State.HELD, "error:ValueError")
    job = worked(policies.judged.using(**paths), "rate").job
    assert (job.state, job.attempt) == (State.FAILED, 3), "the class is gone; the error counts"


def test_a_backoff_with_djangos_parameters_sees_the_result_with_this_error_and_may_end_the_attempts(work):
    result = policies.backs_off_by_result.enqueue()
    job = run(work, result)
    assert (job.state, job.attempt) == (State.SCHEDULED, 1)
    assert timedelta(minutes=59) < job.run_at - timezone.now() <= HOUR
    result.refresh()
    assert result.status == TaskResultStatus.READY
    make_due(job)
    job = run(work, result)
    assert (job.state, job.attempt) == (State.FAILED, 2)
    assert "Its backoff asked for no further attempt." in job.errors[-1]["reason"]


def test_every_end_of_a_run_that_fails_keeps_its_row(run_jobs, settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": "tests.jobs.burying.note"}}}
    short = {"retention": timedelta(seconds=1)}
    ends = [burying.fail.using(**short).enqueue(how) for how in ("error", "discard", "unstorable")]
    ends.append(burying.fail_atomic.using(**short).enqueue())
    run_jobs()
    left = [round((it.job.delete_after - it.job.finished_at).total_seconds() / 86_400) for it in ends]
    assert left == [90] * 4


@pytest.mark.parametrize("names", [["asked"], ["asked", "rate"]])
def test_a_snooze_waits_as_long_as_the_provider_asks_for(worked, names):
    job = worked(policies.judged, *names).job
    assert timedelta(seconds=110) < job.run_at - timezone.now() <= timedelta(seconds=120)


def test_an_error_that_breaks_when_it_is_asked_for_its_pause_is_snoozed_all_the_same(worked):
    job = worked(policies.judged, "odd").job
    assert (job.state, job.errors[0]["outcome"]) == (State.SCHEDULED, "snoozed")


def test_after_an_error_that_is_not_allowed_the_job_fails_at_once(worked):
    job = worked(policies.allowed, "value").job
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert "ValueError is not in retry_on." in job.errors[0]["reason"]
    job = worked(policies.allowed, "burst").job
    assert (job.state, job.attempt) == (State.FAILED, 3)
    job = worked(policies.allowed.using(retry_on=ValueError), "value").job
    assert (job.state, job.attempt) == (State.FAILED, 3)


both = pytest.mark.parametrize("task", [policies.ask_for_papers, policies.ask_for_papers_async])


@pytest.mark.slow
@both
def test_a_step_waits_in_place_for_a_provider_that_asks_for_a_short_wait(worked, marks, task):
    job = worked(task, 3, 0.5).job
    assert (job.state, job.result, job.errors) == (State.SUCCEEDED, [0, 1, 2], [])
    assert marks() == ["run", "call 0", "call 0", "call 1", "call 1", "call 2", "call 2"]


@pytest.mark.slow
@both
def test_the_waits_of_a_step_are_short_in_all(work, marks, monkeypatch, task):
    monkeypatch.setattr(calls, "SHORT_SECONDS", 1.2)
    job = run_once(work, task.enqueue(1, 0.5, 99))
    assert (job.state, job.errors[0]["outcome"]) == (State.SCHEDULED, "snoozed")
    assert marks() == ["run", "call 0", "call 0", "call 0"]


@pytest.mark.parametrize("seconds", [6, "soon"])
def test_a_step_does_not_wait_in_place_for_longer(work, marks, seconds):
    job = run_once(work, policies.ask_for_papers.enqueue(1, seconds))
    assert (job.state, job.errors[0]["outcome"]) == (State.SCHEDULED, "snoozed")
    assert marks() == ["run", "call 0"]


def test_a_step_waits_in_place_for_errors_of_snooze_on_alone(work, marks):
    job = run_once(work, policies.ask_for_papers.using(snooze_on=(), max_attempts=1).enqueue(1, 0.5))
    assert (job.state, marks()) == (State.FAILED, ["run", "call 0"])


@both
@pytest.mark.parametrize("ends_by", ["stop", "cancel"])
def test_a_stop_or_a_cancel_ends_the_wait_in_place(background_worker, marks, monkeypatch, task, ends_by):
    monkeypatch.setattr(policies, "GATE", Gate())
    monkeypatch.setattr(calls, "SHORT_SECONDS", 60)
    monkeypatch.setattr(worker_ending, "SHORT_SECONDS", 60)
    worker = background_worker()
    result = task.enqueue(1, 60)
    assert policies.GATE.reached.wait(10)
    if ends_by == "stop":
        worker.stop()
    else:
        result.cancel()
    state = State.READY if ends_by == "stop" else State.CANCELLED
    wait_for(lambda: result.job.state == state, what="the end of the wait")
    assert marks() == ["run", "call 0"]


def test_the_first_snooze_of_a_short_wait_is_as_short(work):
    result = policies.briefly_limited.enqueue(2)
    job = run_once(work, result)
    assert job.run_at - datetime.fromisoformat(job.errors[0]["finished_at"]) <= timedelta(seconds=2.5)
    make_due(job)
    job = run_once(work, result)
    assert job.errors[0]["in_a_row"] == 2
    assert job.run_at - datetime.fromisoformat(job.errors[0]["finished_at"]) >= timedelta(seconds=14.5)


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


@pytest.mark.sample(2)
@pytest.mark.parametrize("task", holding.OVER, ids=lambda task: task.name)
def test_a_run_that_is_told_to_end_is_held_whatever_it_makes_of_that(ran, marks, task):
    job = ran(task, "k").job
    assert (job.state, job.held_by, job.attempt) == (State.HELD, "budget:x", 0)
    assert job.errors[-1]["reason"] == "No money is left."
    assert marks() == []


def test_a_hold_in_a_task_group_holds_the_job(ran):
    job = ran(holding.ask_in_a_group).job
    assert (job.state, job.held_by) == (State.HELD, "the job")


def test_a_held_job_that_was_asked_to_cancel_is_cancelled(run_jobs):
    result = holding.ask_a_person.enqueue("k")
    Job.objects.filter(pk=result.id).update(cancel_requested_at=result.enqueued_at)
    run_jobs()
    assert (result.job.state, result.job.held_by) == (State.CANCELLED, None)


def test_whoever_waits_for_a_held_job_sees_it_as_ready(ran):
    result = ran(holding.ask_a_person, "k")
    assert result.job.state == State.HELD
    result.refresh()
    assert (result.status.name, result.is_finished, result.attempts) == ("READY", False, 0)
