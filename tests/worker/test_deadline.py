"""--max-seconds: a worker that ends by itself, and what its jobs do before. The pauses of the jobs are chosen so that
without the feature a step is cut off; no assertion depends on how fast the machine is."""

from __future__ import annotations

import threading
import time

import pytest

from pgonly_django.models import Job, State
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.stopping import Deadline
from pgonly_django.worker.timers import NEVER
from tests import jobs
from tests.jobs import looping, timed
from tests.waiting import wait_for


def invoke_until_done(work, result, **options):
    """One worker after the other until the job has ended. Returns how many there were."""
    for count in range(1, 30):
        work(threads=1, **options)
        if result.job.state not in (State.READY, State.SCHEDULED):
            return count
    raise AssertionError(f"still {result.job.state}: {result.job.errors}")


def run_until(ends_at):
    """One of several processes that end together."""
    WorkerLoop(WorkerOptions(threads=1, burst=True, max_seconds=4.0, grace_seconds=0.1), ends_at).run()


@pytest.mark.slow
def test_a_step_that_one_process_lacks_time_for_is_begun_by_none_that_lacks_it_too(transactional_db, marks):
    result = timed.pay_in_turn.enqueue("k", 2, 1.8)
    ends_at = time.monotonic() + 4.0
    run_until(ends_at)
    run_until(ends_at)
    assert marks() == ["k:0"]
    assert (result.job.state, result.job.interruptions) == (State.READY, 1)
    wait_for(lambda: time.monotonic() > ends_at, what="the end of the first")
    run_until(time.monotonic() + 2.0)  # it began when the first one lived
    assert marks() == ["k:0"]
    run_until(time.monotonic() + 4.0)
    assert marks() == ["k:0", "k:1"]
    assert result.job.state == State.SUCCEEDED


@pytest.mark.parametrize("told", [{"until": "soon"}, {"longest_seconds": "x"}])
def test_what_another_program_tells_of_steps_keeps_no_job_from_running(work, told):
    job = jobs.add.enqueue(1).job
    entry = {"until": "2999-01-01T00:00:00+00:00", "longest_seconds": 1000, **told}
    Job.objects.filter(pk=job.pk).update(errors=[entry])
    work(threads=1, max_seconds=2.0)
    job.refresh_from_db()
    assert job.state == State.SUCCEEDED


@pytest.mark.slow
@pytest.mark.parametrize("task", [looping.loop_slowly, looping.loop_slowly_async])
def test_no_item_begins_that_would_outlast_the_process(work, marks, task):
    result = task.enqueue("k", 4, 0.6)
    assert invoke_until_done(work, result, max_seconds=2.0, grace_seconds=0.1) > 1
    assert marks() == [f"k:{n}" for n in range(4)]


@pytest.mark.slow
def test_a_step_inside_another_one_begins_since_the_outer_one_would_be_lost(work, marks):
    result = timed.pay_inside_a_step.enqueue("k", 3.0)
    work(threads=1, max_seconds=6.5, grace_seconds=0.1)  # another step of 3 s has no time
    assert result.job.state == State.SUCCEEDED
    assert marks() == ["k:long", "k:inner"]


@pytest.mark.slow
def test_steps_side_by_side_wait_for_each_other_before_one_is_interrupted(work, marks):
    durations = [0.3, 0.45]
    result = timed.pay_side_by_side.enqueue("k", durations, 8)
    assert invoke_until_done(work, result, max_seconds=3.0) > 1
    expected = sorted(f"k:{lane}:{n}" for lane in range(2) for n in range(8))
    assert sorted(marks()) == expected


@pytest.mark.slow
def test_a_job_that_lacks_time_keeps_no_other_from_running(work, marks):
    slow = timed.pay_in_turn.enqueue("slow", 9, 1.9)
    work(threads=1, max_seconds=6.0, grace_seconds=0.1)
    quick = [jobs.mark_once.enqueue(f"quick {n}") for n in range(3)]
    work(threads=1, max_seconds=2.2, grace_seconds=0.1)
    assert [each.job.state for each in quick] == [State.SUCCEEDED] * 3
    assert slow.job.state == State.READY


def test_a_job_that_left_early_is_not_claimed_again_by_the_same_worker_but_others_are(work, marks):
    slow = looping.loop_slowly.enqueue("slow", 9, 1.9)
    quick = [jobs.mark_once.enqueue(f"quick {n}") for n in range(3)]
    worker = work(threads=1, max_seconds=4.0, grace_seconds=0.1)
    assert (slow.job.state, slow.job.interruptions) == (State.READY, 1)
    assert [each.job.state for each in quick] == [State.SUCCEEDED] * 3
    assert worker.following.jobs_released == 1
    slow_marks = [mark for mark in marks() if mark.startswith("slow")]
    assert len(slow_marks) == len(set(slow_marks)) < 9


@pytest.mark.slow
def test_a_job_whose_steps_take_longer_than_is_left_is_not_begun(work, marks):
    first = timed.pay_in_turn.enqueue("first", 1, 2.6)
    second = timed.pay_in_turn.enqueue("second", 1, 2.6)
    work(threads=1, max_seconds=5.0, grace_seconds=0.1)
    assert (first.job.state, second.job.state) == (State.SUCCEEDED, State.READY)
    job = second.job
    assert (marks(), job.attempt, job.interruptions, job.errors) == (["first:0"], 0, 0, [])


@pytest.mark.slow
@pytest.mark.parametrize("task", [timed.pay_in_turn, timed.pay_side_by_side])
def test_a_step_that_outlasts_the_process_is_named(work, marks, caplog, task):
    result = task.enqueue("k", *([[6.0], 1] if task is timed.pay_side_by_side else [1, 6.0]))
    worker = work(threads=1, max_seconds=3.0)
    assert (result.job.state, result.job.attempt) == (State.READY, 0)
    assert "in the middle of its first step" in caplog.text
    wait_for(lambda: not worker.slots.alive(), what="its thread to end")


@pytest.mark.slow
def test_a_job_that_was_stopped_between_its_steps_is_not_named(work, marks, caplog):
    result = timed.pay_in_turn.enqueue("k", 60, 0.1)
    work(threads=1, max_seconds=3.0)
    assert result.job.interruptions == 1
    assert "first step" not in caplog.text


def test_time_left_is_known_from_the_start(work):
    result = timed.tell_time_left.enqueue()
    work(max_seconds=60.0)
    assert 40 < result.job.result < 60 - 1
    unlimited = timed.tell_time_left.enqueue()
    work()
    assert unlimited.job.result is None


def test_a_worker_without_jobs_ends_by_itself_and_an_idle_one_does_not_claim_at_its_end(background_worker):
    worker = background_worker(max_seconds=1.0)
    assert worker.left.wait(10)
    result = jobs.add.enqueue(1)
    assert result.job.state == State.READY


@pytest.mark.slow
def test_a_job_that_does_not_leave_is_released_before_the_end(background_worker, marks):
    before = set(threading.enumerate())
    worker = background_worker(max_seconds=2.0)
    result = jobs.stubborn.enqueue("k", 4.0)
    assert worker.left.wait(20)
    assert (result.job.state, result.job.attempt) == (State.READY, 0)
    wait_for(
        lambda: not any(each.name.startswith("pgonly-slot") for each in {*threading.enumerate()} - before)
    )


def test_a_row_that_somebody_keeps_locked_does_not_keep_the_process(background_worker, marks, other):
    worker = background_worker(max_seconds=2.0)
    result = jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    with other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [result.id])
        assert worker.left.wait(20)
    assert result.job.state == State.RUNNING


def test_the_times_follow_from_max_seconds_and_the_grace():
    end = time.monotonic() + 60
    deadline = Deadline(WorkerOptions(max_seconds=60.0, grace_seconds=20.0), end)
    assert deadline.grace_seconds == 15.0
    assert deadline.jobs_until == end - 1
    assert deadline.calls_until == end - 2
    assert deadline.stop_at == end - 16
    assert deadline.claims_until == deadline.stop_at
    short = Deadline(WorkerOptions(max_seconds=60.0, grace_seconds=0.0), end)
    assert (short.stop_at, short.claims_until) == (end - 1, end - 2)  # nothing is claimed in the last second


def test_without_max_seconds_nothing_ends():
    deadline = Deadline(WorkerOptions())
    assert {deadline.ends_at, deadline.stop_at, deadline.claims_until, deadline.jobs_until} == {NEVER}
    assert not deadline.claims_nothing
    assert deadline.at_most(5.0) == 5.0


def test_what_follows_the_last_job_has_one_end_and_each_step_leaves_time_for_the_next():
    deadline = Deadline(WorkerOptions())
    now = time.monotonic()
    deadline.leave_by(now + 100.0, 10.0)
    deadline.leave_by(now + 1000.0, 10.0)  # a later end changes nothing
    assert deadline.at_most(200.0) <= 100.0
    assert deadline.at_most(200.0, keeps=0.5) <= 95.0
    assert deadline.at_most(5.0, keeps=0.5) == 5.0
    deadline.leave_by(now, 10.0)
    assert deadline.at_most(5.0) < 0.1
