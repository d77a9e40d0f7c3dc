"""Jobs that wait for a limiter, or are inside of it, and have to end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgonly_django.limits.renewal import renewal
from pgonly_django.models import Job, Limiter, LimiterSlot, LimiterWaiter, State
from tests.jobs import limiting
from tests.limits.rows import held, waiting
from tests.waiting import wait_for

WAITING = [limiting.use, limiting.use_async, limiting.swallow, limiting.use_in_transaction]


def test_jobs_of_a_limiter_run_and_leave_nothing_behind(work, marks, limits):
    limits(deepseek={"concurrent": 2})
    for number in range(10):
        limiting.use.enqueue(str(number))
        limiting.use_async.enqueue(str(number))
        limiting.use_in_transaction.enqueue(f"in transaction {number}")
    work(threads=6)
    assert set(Job.objects.values_list("state", flat=True)) == {State.SUCCEEDED}
    assert len(marks()) == 20
    assert (held(), waiting()) == (0, 0)


@pytest.mark.sample(2)
@pytest.mark.parametrize("how", ["cancel", "stop"])
@pytest.mark.parametrize("task", WAITING, ids=lambda task: task.name)
def test_a_job_that_waits_and_has_to_end_leaves_the_queue(background_worker, marks, limits, hold, task, how):
    limits(deepseek={"concurrent": 1})
    hold("deepseek")
    worker = background_worker(grace_seconds=10.0)
    result = task.enqueue("k")
    wait_for(waiting)
    assert LimiterWaiter.objects.get().who == f"job {result.id} (tests.jobs.limiting.{task.name})"
    if how == "cancel":
        result.cancel()
    else:
        worker.stop()
    wait_for(lambda: result.job.state != State.RUNNING)
    job = result.job
    expected = (State.CANCELLED, "cancelled") if how == "cancel" else (State.READY, "released")
    assert (job.state, job.errors[-1]["outcome"]) == expected
    if how == "stop":
        assert (job.attempt, job.interruptions) == (0, 1)
    wait_for(lambda: not waiting())
    assert held() == 1
    assert marks() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", [limiting.use_in_time, limiting.use_in_time_async], ids=lambda task: task.name
)
def test_the_longest_run_time_holds_while_a_job_waits(background_worker, limits, hold, task):
    limits(deepseek={"concurrent": 1})
    hold("deepseek")
    background_worker()
    result = task.enqueue("k")
    wait_for(lambda: result.job.state == State.FAILED)
    assert result.job.errors[-1]["outcome"] == "timed out"
    wait_for(lambda: not waiting())


@pytest.mark.slow
@pytest.mark.parametrize("task", [limiting.stay_inside, limiting.swallow_inside], ids=lambda task: task.name)
def test_a_job_that_is_cancelled_inside_frees_its_slot(background_worker, marks, limits, task):
    limits(deepseek={"concurrent": 1})
    background_worker()
    result = task.enqueue("k")
    wait_for(marks)
    assert LimiterSlot.objects.get(number=1).who.startswith(f"job {result.id}")
    result.cancel()
    wait_for(lambda: result.job.state == State.CANCELLED)
    wait_for(lambda: not held())
    assert not renewal._held


@pytest.mark.slow
def test_a_job_that_waits_for_long_keeps_its_lease_and_then_gets_in(
    background_worker, marks, limits, settings
):
    settings.PGONLY = {**settings.PGONLY, "LEASE_SECONDS": 2}
    limits(deepseek={"concurrent": 1})
    Limiter.objects.create(name="deepseek", declared={"concurrent": 1}, concurrent=1)
    background_worker()
    Limiter.objects.cool_down(timedelta(seconds=4))
    result = limiting.use.enqueue("k")
    wait_for(lambda: result.job.state == State.SUCCEEDED)
    job = result.job
    assert (job.attempt, job.crashes, job.errors) == (1, 0, [])
    assert marks() == ["k"]
