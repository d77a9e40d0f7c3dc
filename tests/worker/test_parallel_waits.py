"""Jobs that wait for several answers at once, in a worker."""

from __future__ import annotations

import itertools
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django import send_event
from pgonly_django.models import Event, Job, State, Step, Wait
from pgonly_django.queue import checkpoints
from tests.jobs import parallel_waits as jobs
from tests.queue.rows import DAY, HOUR, ago, fresh
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db

KEYS = ["a", "b", "c"]
FIRST = [
    pytest.param(task, tidy, id=f"{task.func.__name__} {tidy}")
    for task, tidy in itertools.product(
        (jobs.first_of_wait, jobs.first_as_completed), ({}, {"is_tidy": True})
    )
]


def in_an_hour(attempt, error):
    return 3600.0


def keys_of(result):
    return sorted(Wait.objects.current().filter(job=result.id).values_list("key", flat=True))


@pytest.mark.sample(2)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("task", "options"), FIRST)
def test_a_job_goes_on_with_the_first_answer_whichever_it_is(worked, work, task, options, key):
    result = worked(task, KEYS, **options)
    assert (result.job.state, result.job.attempt, keys_of(result)) == (State.SCHEDULED, 0, KEYS)
    send_event(key, f"of {key}")
    work(threads=1)
    assert (result.job.state, result.job.result) == (State.SUCCEEDED, [f"of {key}"])


@pytest.mark.parametrize("task", [jobs.gather_all, jobs.all_in_threads])
def test_a_job_that_needs_all_answers_gets_them_in_any_order(worked, work, task):
    result = worked(task, KEYS)
    for key in ("b", "c", "a"):
        assert result.job.state == State.SCHEDULED
        assert result.job.run_at - timezone.now() > 1000 * DAY
        send_event(key, key)
        work(threads=1)
    assert (result.job.state, result.job.result, result.job.attempt) == (State.SUCCEEDED, KEYS, 1)


@pytest.mark.parametrize("task", [jobs.wait_beside_steps, jobs.wait_beside_steps_in_threads])
def test_a_branch_that_waits_stops_no_other_one(worked, work, marks, task):
    result = worked(task, "k", 10, 0.05)
    assert (marks(), result.job.state, result.job.lease_epoch) == (["k:drafted"], State.SCHEDULED, 1)
    send_event("k", 7)
    work(threads=1)
    assert (result.job.result, marks()) == (7, ["k:drafted"])


@pytest.mark.parametrize("task", [jobs.wait_beside_steps, jobs.wait_beside_steps_in_threads])
def test_an_event_that_comes_while_a_step_goes_on_is_delivered_in_the_run(background_worker, task):
    background_worker()
    result = task.enqueue("k", 15, 0.2)
    wait_for(lambda: keys_of(result) == ["k"])
    send_event("k", 7)
    wait_for(lambda: Step.objects.filter(name="event k").exists(), 10)
    assert (result.job.state, Step.objects.filter(name="drafted").exists()) == (State.RUNNING, False)
    wait_for(lambda: result.job.is_finished, 20)
    assert (result.job.state, result.job.result, result.job.lease_epoch) == (State.SUCCEEDED, 7, 1)
    wait_for(lambda: Event.objects.get().is_delivered)


def test_a_second_question_is_asked_before_the_first_one_is_answered(worked, work):
    result = worked(jobs.ask_two, "lawyer", "cfo")
    assert (result.job.state, keys_of(result)) == (State.SCHEDULED, ["cfo", "lawyer"])
    for key in ("cfo", "lawyer"):
        send_event(key, key)
        work(threads=1)
    assert result.job.result == ["lawyer", "cfo"]


def test_a_wait_whose_await_is_cancelled_is_withdrawn_in_the_database(worked, work):
    result = worked(jobs.ask_in_vain, "k", "after")
    assert (keys_of(result), list(Wait.objects.values_list("key", flat=True))) == (["after"], ["after"])
    send_event("k", 7)  # wakes nobody
    work(threads=1)
    assert (result.job.state, result.job.lease_epoch) == (State.SCHEDULED, 1)
    send_event("after", 8)
    work(threads=1)
    assert result.job.result == 8


def test_a_timeout_of_asyncio_counts_beside_a_step_and_withdraws_the_wait(worked):
    result = worked(jobs.limit_the_wait, "k")
    assert (result.job.state, result.job.result, Wait.objects.count()) == (State.SUCCEEDED, "gone on", 0)


def test_an_error_beside_a_wait_ends_the_run_with_that_error(worked, work):
    result = worked(jobs.fail_beside_a_wait.using(max_attempts=1), "k")
    job = result.job
    assert (job.state, job.attempt, job.errors[-1]["message"]) == (State.FAILED, 1, "of a branch")


def test_after_such_an_error_the_event_begins_the_next_attempt_at_once(worked, work):
    result = worked(jobs.fail_beside_a_wait.using(backoff=in_an_hour), "k")
    job = result.job
    assert (job.state, job.attempt, job.errors[-1]["message"]) == (State.SCHEDULED, 1, "of a branch")
    assert job.run_at - timezone.now() <= HOUR
    send_event("k", 7)
    work(threads=1)
    assert (result.job.state, result.job.attempt) == (State.FAILED, 2)


# The first of several keys.


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("task", [jobs.wait_for_first, jobs.wait_for_first_and_then])
def test_the_first_of_several_keys_counts_once_and_for_all_runs(worked, work, marks, task, key):
    more = ["after"] if task is jobs.wait_for_first_and_then else []
    result = worked(task, KEYS, *more)
    assert keys_of(result) == KEYS
    send_event(key, {"by": key})
    work(threads=1)
    for each in KEYS:
        send_event(each, "late")
    if more:
        assert (result.job.state, keys_of(result)) == (State.SCHEDULED, more)
        send_event("after", "yes")
        work(threads=1)
    assert result.job.result == [key, {"by": key}, *["yes"] * len(more)]
    assert marks() == [f"after:{key}"] * len(more)
    assert not Wait.objects.exists()


def test_of_several_answers_the_earliest_one_counts(worked):
    for key in ("b", "a"):
        send_event(key, key)
    assert worked(jobs.wait_for_first, KEYS).job.result == ["b", "b"]


def test_a_time_may_stand_among_the_keys(worked, work):
    result = worked(jobs.wait_for_first, {"a": None, "cool down": 3600.0})
    assert timedelta(minutes=59) < result.job.run_at - timezone.now() <= HOUR
    Wait.objects.filter(key=None).update(until=ago(HOUR))
    Job.objects.update(run_at=ago(HOUR))
    work(threads=1)
    assert (result.job.result, Wait.objects.count()) == (["cool down", None], 0)


def test_without_an_answer_in_time_each_key_is_withdrawn(worked, work):
    result = worked(jobs.wait_for_first, KEYS, 3600)
    Wait.objects.update(until=ago(HOUR))
    Job.objects.update(run_at=ago(HOUR))
    work(threads=1)
    assert (result.job.result, Wait.objects.count()) == ("No event 'a, b, c' came in time.", 0)


def test_a_key_of_several_has_its_question(worked):
    asked = {"a": {"choices": ["yes", "no"], "question": "A?"}, "b": {"question": "B?"}}
    worked(jobs.wait_for_first, asked, 3600)
    rows = Wait.objects.order_by("key").values_list("key", "choices", "question")
    assert list(rows) == [("a", ["yes", "no"], "A?"), ("b", [], "B?")]
    assert not Wait.objects.filter(until=None).exists()


def find_slowly(*arguments, find=checkpoints.find_step):
    time.sleep(0.5)
    return find(*arguments)


def test_a_slow_machine_ends_no_run_in_which_a_branch_goes_on(work, monkeypatch):
    monkeypatch.setattr(checkpoints, "find_step", find_slowly)
    job = jobs.wait_beside_steps_in_threads.enqueue("a", 2, 0.01).job
    work(threads=1)
    assert (fresh(job).lease_epoch, Step.objects.filter(job=job).count()) == (1, 3)
