from __future__ import annotations

import threading
import time

import pytest
from django.db import connection
from django.db.models.functions import Now

from pgonly_django import enqueue_many
from pgonly_django.context.run import Run
from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, State
from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.queue.finish import Finish
from pgonly_django.worker import in_flight
from pgonly_django.worker.ending import EndedRun
from pgonly_django.worker.exchange import ExchangeResult
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.inbox import UnknownClaim
from tests import jobs
from tests.jobs import ending
from tests.waiting import wait_for


@pytest.mark.slow
def test_a_worker_that_claims_a_job_it_still_runs_ends_the_older_run(background_worker, marks):
    worker = background_worker(threads=2)
    result = jobs.sleep_in_slices.enqueue("k", 20.0)
    wait_for(lambda: "k:started" in marks())
    older = worker.in_flight.runs[result.id]
    # As if the process had been frozen past its lease, and somebody had rescued the job.
    Job.objects.filter(pk=result.id).update(state=State.READY, lease_expires_at=None)
    worker.inbox.put("ready default")
    wait_for(lambda: marks().count("k:started") == 2, what="the second run")
    assert older.lease_lost
    wait_for(lambda: marks().count("k:cleaned up") == 1, what="the older run to end")
    assert worker.in_flight.runs[result.id].job.lease_epoch == 2
    assert result.job.state == State.RUNNING
    result.cancel()
    assert result.wait(10).job.state == State.CANCELLED


@pytest.mark.slow
def test_a_row_locked_elsewhere_does_not_make_a_burst_leave_ready_jobs_behind(work, marks):
    locked = jobs.mark_once.enqueue("locked")
    others = [jobs.add.enqueue(i) for i in range(20)]
    released = threading.Event()

    def hold_the_row():
        with connect("default", application_name="other") as other, other.transaction():
            wait_for(lambda: "locked" in marks())
            other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [locked.id])
            released.wait(3)
        connection.close()

    holder = threading.Thread(target=hold_the_row)
    holder.start()
    work(threads=1)
    released.set()
    holder.join()
    assert locked.job.state == State.SUCCEEDED
    assert {other.job.state for other in others} == {State.SUCCEEDED}


@pytest.mark.slow
def test_a_job_that_goes_back_may_be_claimed_again_in_the_same_exchange(work):
    enqueue_many([(ending.fail_until, [3]) for _ in range(100)])
    worker = work(threads=2)
    assert set(Job.objects.values_list("state", "attempt")) == {(State.SUCCEEDED, 3)}
    assert worker.following.jobs_done == 300
    assert worker.in_flight.superseded == []


@pytest.mark.slow
def test_an_end_that_waits_for_a_lock_takes_no_slot(background_worker, marks, monkeypatch):
    """Else the other jobs would start at the tries to write it only, and the loop would turn without a pause."""
    monkeypatch.setattr(in_flight, "LOCKED_RETRY_SECONDS", (30.0, 30.0))
    worker = background_worker(threads=1)
    held = jobs.sleep_in_slices.enqueue("k", 0.5)
    wait_for(lambda: "k:started" in marks())
    with connect("default", application_name="a view") as view, view.transaction():
        view.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [held.id])
        wait_for(lambda: worker.in_flight._locked, what="its end to meet the lock")
        assert jobs.add.enqueue(1).wait(10).return_value == 2
    assert held.job.state == State.RUNNING


@pytest.mark.slow
def test_the_end_of_a_run_is_kept_when_an_earlier_run_of_its_job_is_cut_off(
    background_worker, stay_at_first, marks, caplog
):
    worker = background_worker(threads=2)
    result = stay_at_first.enqueue("k")
    wait_for(lambda: "k:started 1" in marks())
    Job.objects.filter(pk=result.id).update(
        state=State.READY, ready_at=Now()
    )  # as a rescue by another worker
    worker.inbox.put(notify.ready("default"))
    wait_for(lambda: "k:started 2" in marks())
    with connect("default", application_name="a view") as view, view.transaction():
        view.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [result.id])
        jobs.mark("k:go")
        wait_for(lambda: worker.in_flight._locked, what="its end to meet the lock")
        wait_for(lambda: "was cut off" in caplog.text)
    assert result.wait(10).job.state == State.SUCCEEDED


def run_of(lease_epoch=1, **facts):
    job = ClaimedJob(
        **{**dict.fromkeys(ClaimedJob._fields), "id": "a", "crashes": 0, "lease_epoch": lease_epoch, **facts}
    )
    return Run(job, "default", claimed_at=0.0, lease_until=0.0)


def succeeded(run):
    return Finish(run.job.id, run.job.lease_epoch, Outcome.SUCCEEDED, State.SUCCEEDED)


def test_an_end_whose_row_is_locked_is_tried_again_after_a_pause():
    held, run = InFlight(), run_of()
    held.hold([run])
    held.end(EndedRun(run, succeeded(run)))
    now = time.monotonic()
    assert list(held.settle(ExchangeResult(locked=[succeeded(run)]))) == []
    assert held.finishes(now) == []
    assert now < held.next_write(now) <= now + 1.0
    assert len(held.finishes(held.next_write(now))) == 1


def test_an_old_end_that_is_lost_leaves_the_end_of_a_newer_run_to_be_written():
    """The old end was under way when a claim brought the job again, and its new run has ended since."""
    held, old, new = InFlight(), run_of(1), run_of(2)
    held.hold([old])
    held.hold([new])
    held.end(EndedRun(new, succeeded(new)))
    assert list(held.settle(ExchangeResult(lost=[succeeded(old)]))) == []
    assert held.finishes(0.0) == [succeeded(new)]
    (lost,) = held.settle(ExchangeResult(lost=[succeeded(new)]))
    assert (lost.run, lost.finish) == (new, None)


def test_of_an_older_run_that_had_begun_the_end_is_waited_for_and_of_another_not():
    held, begun, waiting, over = InFlight(), run_of(1), run_of(2), run_of(3)
    begun.take(), over.take()
    held.hold([begun])
    held.hold([waiting])
    held.hold([over])
    held.end(EndedRun(over, succeeded(over)))
    held.hold([run_of(4)])
    assert held.superseded == [begun]
    assert all(run.lease_lost for run in (begun, waiting, over))
    assert not waiting.take()  # no slot starts it
    assert held.finishes(0.0) == []


def test_a_row_that_we_know_by_now_is_not_released():
    """The answer to its claim has come since the heartbeat asked: the job would run twice."""
    held, run = InFlight(), run_of(2)
    held.hold([run])
    held.release_unknown(UnknownClaim(run.job.id, 2))
    held.release_unknown(UnknownClaim("b", 3))
    assert [finish.id for finish in held.finishes(0.0)] == ["b"]
    held.hold([run_of(3, id="b")])
    assert held.finishes(0.0) == []


def test_a_suspect_counts_until_it_has_saved_something_new_or_is_over():
    held, saves, ends = InFlight(), run_of(crashes=SUSPECT_FROM), run_of(id="b", crashes=SUSPECT_FROM)
    held.hold([saves, ends])
    assert not held.forget_cleared()
    saves.saved_something_new = True
    assert held.forget_cleared()
    assert held.has_suspect
    held.hold([run_of(2, id="b")])
    assert not held.has_suspect
