from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from pgonly_django.database import notify
from pgonly_django.models import Job, State
from tests import jobs
from tests.jobs import ending
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


def test_a_job_that_runs_too_long_is_ended(background_worker):
    background_worker()
    result = ending.run_too_long.enqueue()
    result.wait(20)
    entry = result.job.errors[-1]
    assert (result.job.state, entry["outcome"]) == (State.FAILED, "timed out")


def test_unstarted_claims_go_back_while_a_long_job_holds_the_slot(background_worker, marks):
    worker = background_worker(threads=1)
    worker.claims.prefetch.note(
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
