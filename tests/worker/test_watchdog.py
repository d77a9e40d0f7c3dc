"""A run that was told to end has not succeeded; one that came to its end by itself has."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from pgonly_django.context.interrupter import Interrupter
from pgonly_django.database import notify
from pgonly_django.exceptions import JobInterrupt, JobStopped
from pgonly_django.models import Job, State
from tests import jobs
from tests.jobs import ending, leaving
from tests.waiting import wait_for


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_cut_off_job_whose_thread_returns_gives_its_place_back(background_worker, marks, threads):
    worker = background_worker(threads=threads + 1, grace_seconds=0.0)
    result = jobs.stubborn.enqueue("deaf", 4.0)
    wait_for(lambda: "deaf:started" in marks())
    result.cancel()
    assert result.wait(10).job.state == State.CANCELLED
    assert jobs.add.enqueue(1).wait(10).return_value == 2
    wait_for(lambda: worker.slots.stuck == 0, what="the stuck thread to return")
    assert jobs.add.enqueue(2).wait(10).return_value == 3


@pytest.mark.slow
def test_a_cut_off_job_whose_thread_returns_is_told_once(background_worker, marks, caplog):
    """Its thread raises the interruption in the end, when the job may be running elsewhere."""
    worker = background_worker(threads=1, grace_seconds=0.0)
    times_out = jobs.stubborn.using(max_runtime=timedelta(seconds=0.1), max_attempts=1)
    result = times_out.enqueue("k", 5.0)
    wait_for(lambda: worker.slots.stuck == 1)
    wait_for(lambda: worker.slots.stuck == 0, what="its thread to return")
    told = [record for record in caplog.records if getattr(record, "job_id", "") == result.id]
    assert [record.event for record in told if record.levelname in {"WARNING", "ERROR"}] == [
        "worker.job_cut_off",
        "worker.job_ended",
    ]


def test_a_job_that_was_cut_off_waits_for_its_own_backoff(background_worker, marks):
    background_worker(grace_seconds=0.0)
    result = ending.stubborn_with_a_backoff.enqueue("k")
    wait_for(lambda: result.job.state == State.SCHEDULED, seconds=15)
    assert result.job.run_at > timezone.now() + timezone.timedelta(minutes=5)


def test_unstarted_claims_go_back_while_a_long_job_holds_the_slot(background_worker, marks):
    worker = background_worker(threads=1)
    worker.plan.note_run_seconds(
        "default", 0.0001
    )  # jobs here are known to be short, so the worker claims ahead
    long_one = jobs.hold_on.enqueue("long", 30)
    wait_for(lambda: "long:started" in marks())
    waiting = [jobs.add.enqueue(i) for i in range(5)]
    wait_for(
        lambda: (
            Job.objects.filter(pk__in=[r.id for r in waiting], state=State.READY, lease_epoch__gt=0).count()
            == 5
        )
    )
    assert set(
        Job.objects.filter(pk__in=[r.id for r in waiting]).values_list("attempt", "interruptions")
    ) == {(0, 0)}
    long_one.cancel()


def test_a_run_whose_job_has_ended_in_a_later_run_is_still_cut_off(
    background_worker, stay_at_first, marks, caplog
):
    worker = background_worker(threads=2, grace_seconds=0.0)
    result = stay_at_first.enqueue("k")
    wait_for(lambda: "k:started 1" in marks())
    jobs.mark("k:go")
    # As if the process had been frozen past its lease, and another worker had rescued the job.
    Job.objects.filter(pk=result.id).update(state=State.READY, ready_at=Now())
    worker.inbox.put(notify.ready("default"))
    assert result.wait(10).job.state == State.SUCCEEDED
    wait_for(lambda: "was cut off" in caplog.text)


@pytest.mark.slow
def test_two_cancels_in_a_row_are_both_heard(background_worker, marks):
    background_worker()
    results = [jobs.sleep_in_slices.enqueue(key) for key in ("a", "b")]
    wait_for(lambda: {"a:started", "b:started"} <= set(marks()))
    for result in results:
        result.cancel()
    assert [result.wait(8).job.state for result in results] == [State.CANCELLED] * 2


SHORT = timedelta(seconds=0.5)


def run_and_end(worker, marks, task, how):
    """Start a job, end it by `how`, and return it once its row has an end or is ready again."""
    task = task.using(max_runtime=SHORT) if how == "max_runtime" else task
    result = task.enqueue("k")
    wait_for(lambda: "k:started" in marks(), what="the start")
    if how == "cancel":
        result.cancel()
    elif how == "stop":
        worker.stop()
    wait_for(lambda: result.job.state != State.RUNNING, what="its end")
    return result.job


ENDS = {
    "cancel": (State.CANCELLED, "cancelled"),
    "max_runtime": (State.FAILED, "timed out"),
    "stop": (State.READY, "released"),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize(
    "task",
    [
        leaving.swallow,
        leaving.swallow_async,
        leaving.swallow_from_the_context,
        leaving.fail_while_leaving,
        leaving.leave,
        leaving.leave_async,
    ],
    ids=lambda task: task.name,
)
def test_a_job_that_was_told_to_end_ends_as_it_was_told(background_worker, marks, task, how):
    worker = background_worker(grace_seconds=2.0)
    job = run_and_end(worker, marks, task, how)
    assert (job.state, job.errors[-1]["outcome"]) == ENDS[how]
    if how == "stop":
        assert (job.attempt, job.interruptions) == (0, 1)
    if task in (leaving.leave, leaving.leave_async):
        assert job.checkpoint.value == {"page": 3}


@pytest.mark.parametrize("task", [leaving.be_done_just_then, leaving.be_done_just_then_async])
def test_a_job_that_has_done_its_work_when_the_stop_comes_has_succeeded(background_worker, marks, task):
    worker = background_worker(grace_seconds=5.0)
    job = run_and_end(worker, marks, task, "stop")
    assert (job.state, job.result) == (State.SUCCEEDED, "all of it")


def test_the_coroutine_of_a_cancelled_job_cleans_up(background_worker, marks):
    worker = background_worker(grace_seconds=5.0)
    job = run_and_end(worker, marks, leaving.leave_a_mark, "cancel")
    assert job.state == State.CANCELLED
    assert "k:cleaned up" in marks()
    assert "cut off" not in job.errors[-1]["reason"]


def test_stop_in_a_run_that_may_go_on_is_an_error_that_names_the_other_ways(ran):
    job = ran(leaving.stop_unasked).job
    assert job.state == State.FAILED
    assert "raise Snooze(delay)" in job.errors[-1]["message"]


def test_a_job_that_stops_itself_uses_up_its_attempts(work):
    result = leaving.raise_job_stopped.enqueue()
    worker = work(threads=1)
    assert worker.following.jobs_done == 3
    assert (result.job.state, result.job.attempt) == (State.FAILED, 3)
    assert "raised JobStopped itself" in result.job.errors[-1]["reason"]


def test_a_guard_knows_whether_the_interruption_reached_the_job():
    """One that was sent while the job returned arrives in close(), and has not."""
    seen = [_told_and_reached(returns_first=bool(i % 2)) for i in range(100)]
    assert all(told == reached for told, reached in seen)
    assert any(told for told, _ in seen)


def _told_and_reached(*, returns_first):
    interrupter, opened, over = Interrupter(), threading.Event(), threading.Event()
    seen = []

    def job():
        told = False
        interrupter.open_thread()
        try:
            opened.set()
            while not over.is_set():
                pass
        except JobInterrupt:
            told = True
        try:
            interrupter.close()
        except JobInterrupt:  # in its first line
            assert not told
        seen.append((told, interrupter.has_reached_job))

    thread = threading.Thread(target=job)
    thread.start()
    opened.wait()
    if returns_first:
        over.set()
    interrupter.interrupt(JobStopped)
    over.set()
    thread.join()
    return seen[0]
