"""A run that was told to end has not succeeded; one that came to its end by itself has."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from pgonly_django.context.run import Interrupter
from pgonly_django.exceptions import JobInterrupt, JobStopped
from pgonly_django.models import State
from tests.jobs import leaving
from tests.waiting import wait_for

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


def test_stop_in_a_run_that_may_go_on_is_an_error_that_names_the_other_ways(run_jobs):
    result = leaving.stop_unasked.enqueue()
    run_jobs()
    assert result.job.state == State.FAILED
    assert "raise Snooze(delay)" in result.job.errors[-1]["message"]


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
