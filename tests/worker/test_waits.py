"""Jobs that wait for an event or a time, in a worker."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from functools import partial

import pytest
from django.db import transaction
from django.utils import timezone

from pgonly_django import send_event
from pgonly_django.conf import LONGEST
from pgonly_django.models import Event, Job, State, Step, Wait
from pgonly_django.outcomes import Outcome
from pgonly_django.queue import waits
from pgonly_django.worker import exchange, timers
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.timers import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, NEVER
from tests.jobs import mark, waiting
from tests.queue.rows import DAY, HOUR, ago, fresh, while_locked
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db


def make_due():
    """As if the deadlines had come."""
    Wait.objects.update(until=ago(HOUR))
    Job.objects.filter(state=State.SCHEDULED).update(run_at=ago(HOUR))


def waits_in(state):
    """The jobs in this state that wait, by the database alone."""
    return Job.objects.filter(state=state, waits__isnull=False).distinct()


@pytest.mark.sample(4)
@pytest.mark.parametrize("task", waiting.HOSTILE, ids=lambda task: task.name)
def test_a_job_waits_for_its_event_whatever_it_makes_of_the_interruption(worked, work, marks, task):
    result = worked(task, "k")
    job = result.job
    assert (job.state, job.attempt, job.errors, job.finished_at) == (State.SCHEDULED, 0, [], None)
    assert job.run_at - timezone.now() > 1000 * DAY
    assert set(marks()) <= {"k:before"}
    send_event("k", "yes")
    work(threads=1)
    job = result.job
    assert (job.state, job.result, job.attempt, job.errors) == (State.SUCCEEDED, "yes", 1, [])
    assert len(marks()) == len(set(marks()))
    assert not Wait.objects.exists()
    assert Event.objects.get().is_delivered


def test_an_event_that_came_before_counts(ran):
    send_event("k", 7)
    job = ran(waiting.wait, "k").job
    assert (job.state, job.result, job.lease_epoch) == (State.SUCCEEDED, 7, 1)


def test_all_jobs_get_the_one_answer_also_those_that_come_later(ran, run_jobs):
    first, second = ran(waiting.wait, "k"), ran(waiting.await_event, "k")
    assert send_event("k", 7)
    assert not send_event("k", 8)
    run_jobs()
    assert [each.job.result for each in (first, second, ran(waiting.wait, "k"))] == [7] * 3


def test_a_job_hears_only_an_answer_that_it_offers_and_is_woken_for_no_other(ran, run_jobs):
    first = ran(waiting.choose, "k", ["yes", "no"])
    second = ran(waiting.choose, "k", ["yes", "later"])
    assert send_event("k", "no")
    run_jobs()
    assert (first.job.result, second.job.state, second.job.lease_epoch) == ("no", State.SCHEDULED, 1)
    assert not send_event("k", "maybe")
    assert send_event("k", "later")
    run_jobs()
    assert (first.job.result, second.job.result) == ("no", "later")


def test_an_event_that_is_rolled_back_wakes_nobody(ran, run_jobs):
    result = ran(waiting.wait, "k")
    with transaction.atomic():
        send_event("k", 7)
        transaction.set_rollback(True)
    run_jobs()
    assert result.job.state == State.SCHEDULED


@pytest.mark.parametrize("task", [waiting.sleep, waiting.asleep])
def test_a_job_sleeps_without_an_attempt_until_its_time(ran, run_jobs, task):
    result = ran(task, 3600)
    job = result.job
    assert (job.state, job.attempt, job.errors) == (State.SCHEDULED, 0, [])
    assert timedelta(minutes=59) < job.run_at - timezone.now() <= HOUR
    until = Wait.objects.get().until
    for _ in range(2):  # a run before the time waits again, until the same time
        assert Job.objects.all().run_now() == 1
        run_jobs()
        assert (result.job.state, Wait.objects.get().until) == (State.SCHEDULED, until)
        assert abs(result.job.run_at - until) < timedelta(seconds=5)
    make_due()
    run_jobs()
    job = result.job
    assert (job.state, job.result, job.attempt, Wait.objects.count()) == (State.SUCCEEDED, "awake", 1, 0)
    assert Step.objects.get().name == "sleep a while"


def test_a_job_without_an_answer_in_time_is_told_so_in_each_run(ran, run_jobs):
    result = ran(waiting.catch_the_timeout, "k", 0)
    assert result.job.result == "No event 'k' came in time."
    send_event("k", "late")
    Job.objects.update(state=State.FAILED)
    assert Job.objects.all().retry() == 1
    run_jobs()
    assert result.job.result == "No event 'k' came in time."


def test_a_deadline_that_comes_while_the_job_waits_is_an_answer(ran, run_jobs):
    result = ran(waiting.catch_the_timeout, "k", 60)
    assert result.job.state == State.SCHEDULED
    make_due()
    run_jobs()
    assert result.job.result == "No event 'k' came in time."


def test_a_timeout_that_is_not_caught_fails_the_job_as_any_error(ran, run_jobs):
    job = ran(waiting.wait_in_vain, "k").job
    assert (job.state, job.attempt) == (State.FAILED, 2)
    assert {entry["exception"] for entry in job.errors} == {"pgonly_django.exceptions.EventTimeout"}


@pytest.mark.parametrize("task", [waiting.wait_in_a_transaction, waiting.wait_as_atomic])
def test_a_wait_in_a_transaction_is_refused_before_it_begins(worked, task):
    job = worked(task.using(max_attempts=1), "k").job
    assert job.state == State.FAILED
    assert "The job cannot wait here for" in job.errors[0]["message"]
    assert not Wait.objects.exists()


def test_a_held_job_looks_for_its_event_when_it_is_resumed(ran, run_jobs):
    result = ran(waiting.wait, "k")
    jobs = Job.objects.filter(pk=result.id)
    assert jobs.hold() == 1
    send_event("k", 7)
    run_jobs()
    assert result.job.state == State.HELD
    assert jobs.resume() == 1
    assert result.job.state == State.READY
    run_jobs()
    assert result.job.result == 7


def test_a_job_that_waits_for_something_else_by_now_waits_on_when_it_is_resumed(ran):
    result = ran(waiting.wait, "k")
    Wait.objects.update(lease_epoch=0)
    jobs = Job.objects.filter(pk=result.id)
    jobs.hold()
    jobs.resume()
    assert result.job.state == State.SCHEDULED


@pytest.mark.parametrize(("verb", "state"), [("cancel", State.CANCELLED), ("discard", State.FAILED)])
def test_a_waiting_job_can_be_given_up_and_no_event_wakes_it(ran, run_jobs, verb, state):
    result = ran(waiting.wait, "k")
    assert getattr(Job.objects.filter(pk=result.id), verb)() == 1
    send_event("k", 7)
    run_jobs()
    assert (result.job.state, Event.objects.get().is_delivered) == (state, True)
    assert result.job.is_finished
    Job.objects.all().retry()
    run_jobs()
    assert result.job.result == 7


def test_a_retry_makes_a_waiting_job_look_and_wait_again(ran, run_jobs, marks):
    result = ran(waiting.wait, "k")
    assert Job.objects.all().retry() == 1
    run_jobs()
    assert (result.job.state, result.job.lease_epoch, marks()) == (State.SCHEDULED, 2, ["k:before"])


def test_a_waiting_job_frees_its_concurrency_key(worked):
    keyed = [task.using(concurrency_key="c") for task in (waiting.wait, waiting.sleep)]
    first, second = worked(keyed[0], "k"), worked(keyed[1], 0)
    assert (first.job.state, second.job.state) == (State.SCHEDULED, State.SUCCEEDED)


def test_of_parallel_waits_the_first_event_or_deadline_starts_the_next_run(ran, run_jobs):
    result = ran(waiting.wait_for_both, "a", "b", 3600)
    assert timedelta(minutes=59) < result.job.run_at - timezone.now() <= HOUR
    assert Wait.objects.count() == 2
    send_event("b", 2)
    run_jobs()
    assert (result.job.state, [wait.key for wait in Wait.objects.all()]) == (State.SCHEDULED, ["a"])
    assert result.job.run_at - timezone.now() > DAY
    send_event("a", 1)
    run_jobs()
    assert result.job.result == [1, 2]


def test_a_paid_call_beside_a_wait_is_not_cut_off(ran, marks):
    result = ran(waiting.wait_beside_a_call, "k")
    assert (result.job.state, marks(), Step.objects.get().name) == (State.SCHEDULED, ["k:paid"], "pay")


# With a real worker, beside it.


@pytest.mark.parametrize("listen", [True, False])
def test_a_worker_starts_a_job_when_its_event_is_committed(background_worker, listen):
    background_worker(listen=listen)
    result = waiting.wait.enqueue("k")
    wait_for(lambda: waits_in(State.SCHEDULED).exists())
    sent_at = time.monotonic()
    with transaction.atomic():
        send_event("k", 7)
    wait_for(lambda: result.job.state == State.SUCCEEDED, 5 if listen else 30)
    if listen:
        assert time.monotonic() - sent_at < 2
    assert result.job.result == 7


def test_an_event_that_comes_while_the_job_leaves_its_run_is_not_lost(background_worker, marks):
    worker = background_worker()
    result = waiting.leave_slowly.enqueue("k")
    wait_for(lambda: "k:leaving" in marks())
    send_event("k", 7)
    wait_for(lambda: worker.plan.delivery.at == NEVER)
    assert (result.job.state, Event.objects.get().is_delivered) == (State.RUNNING, False)
    mark("k:go")
    wait_for(lambda: result.job.state == State.SUCCEEDED, 5)
    assert result.job.result == 7


@pytest.fixture
def seldom_polling(background_worker, monkeypatch):
    """Starts a worker that looks only when it is told to, by others or by itself."""
    for name in ("FIRST_PAUSE_SECONDS", "BLIND_FIRST_PAUSE_SECONDS"):
        monkeypatch.setattr(timers, name, 60.0)
    return partial(background_worker, poll_seconds=60.0)


@pytest.mark.parametrize("listen", [False, True])
def test_a_run_that_ends_waiting_is_followed_by_a_look_for_its_event(
    seldom_polling, other, marks, monkeypatch, listen
):
    """Without LISTEN, and where the NOTIFY of its own end, which would tell it too, could not be sent."""
    monkeypatch.setattr(exchange, "_notify", lambda connection, payloads: None)
    result = waiting.leave_slowly.enqueue("k")
    seldom_polling(listen=listen)
    wait_for(lambda: "k:leaving" in marks())
    other.execute(waits.SEND.sql, {"key": "k", "payload": "7", "keep": HOUR})  # no NOTIFY tells of it
    mark("k:go")
    wait_for(lambda: result.job.state == State.SUCCEEDED, 5)
    assert result.job.result == 7


def test_a_job_whose_row_is_locked_when_its_event_comes_is_woken_soon_after(seldom_polling, other):
    delivery = seldom_polling().plan.delivery
    result = waiting.wait.enqueue("k")
    wait_for(lambda: waits_in(State.SCHEDULED).exists())
    with while_locked(result.job, other):
        send_event("k", 7)
        wait_for(lambda: delivery._pause == LONGEST_RETRY_SECONDS)
        assert delivery.due_at - time.monotonic() <= LONGEST_RETRY_SECONDS
    wait_for(lambda: result.job.state == State.SUCCEEDED, 5)
    wait_for(lambda: (delivery.due_at, delivery._pause) == (NEVER, FIRST_RETRY_SECONDS))


def test_a_job_that_is_cancelled_while_it_leaves_its_run_does_not_wait(background_worker, marks):
    background_worker()
    result = waiting.leave_slowly.enqueue("k")
    wait_for(lambda: "k:leaving" in marks())
    Job.objects.filter(pk=result.id).cancel()
    mark("k:go")
    wait_for(lambda: result.job.state == State.CANCELLED)
    assert result.job.is_finished


def test_a_job_whose_worker_dies_while_it_leaves_its_run_waits_on(server, worked, work, marks):
    """The end of its run was never written: another worker gets the job, and the event."""
    result = worked(waiting.catch_the_timeout, "k", 60)
    dead = {"worker_id": "00000000-0000-7000-8000-000000000000", "lease_expires_at": ago(HOUR)}
    Job.objects.update(state=State.RUNNING, run_at=None, **dead)
    send_event("k", "yes")
    wait_for(lambda: work(threads=1) and result.job.state == State.SUCCEEDED)
    assert result.job.result == "yes"


def test_a_line_of_the_log_says_what_the_job_waits_for(worked, events):
    worked(waiting.wait, "approve:7")
    (record,) = events("worker.job_ended")
    assert (record.outcome, record.levelno) == (Outcome.WAITING, logging.INFO)
    assert "waiting after" in record.message
    assert record.message.endswith("(attempt 1 of 8): event approve:7")


def test_ten_thousand_waiting_jobs_make_an_idle_worker_send_nothing_more(transactional_db):
    jobs = Job.objects.bulk_create(
        Job(task="t", state=State.SCHEDULED, run_at=ago(-LONGEST), lease_epoch=1) for _ in range(10_000)
    )
    Wait.objects.bulk_create(
        Wait(job=job, name="event k", key=f"k {number}", lease_epoch=1) for number, job in enumerate(jobs)
    )
    worker = WorkerLoop(WorkerOptions(threads=1))
    try:
        worker.plan.promotion.run()
        assert worker.plan.delivery.due_at == worker.plan.promotion.next_job_at == NEVER
        send_event("k 7")
        worker.plan.promotion.run()
        worker.plan.delivery.run()
        assert worker.plan.delivery.due_at == NEVER
    finally:
        worker.database.close_all()
        worker.inbox.close()
    assert fresh(jobs[7]).state == State.READY
    assert Job.objects.filter(state=State.READY).count() == 1


def test_a_wait_that_has_timed_out_is_repaired_by_a_retry_that_forgets_it(run_jobs):
    result = waiting.wait.using(max_attempts=1).enqueue("k", DAY.total_seconds())
    run_jobs()
    make_due()
    run_jobs()
    assert result.retry()
    run_jobs()
    assert result.job.state == State.FAILED, "the timeout is heard again"
    assert result.retry(forget=["event k"])
    run_jobs()
    assert Wait.objects.get().until > timezone.now() + HOUR, "its time is counted anew"
    send_event("k", "yes")
    run_jobs()
    assert result.job.result == "yes"
