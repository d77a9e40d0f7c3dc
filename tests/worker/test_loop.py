"""What a worker's loop does between a job's claim and its end."""

from __future__ import annotations

import time

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, State
from pgonly_django.models.job import SUSPECT_FROM
from pgonly_django.queue.claim import Claim
from pgonly_django.worker import in_flight
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.worker import WorkerLoop
from tests import jobs
from tests.jobs import watched
from tests.queue.rows import make
from tests.waiting import wait_for


def test_a_run_is_told_by_the_next_heartbeat_that_its_lease_is_gone(background_worker, marks, settings):
    settings.PGONLY = {"LEASE_SECONDS": 2}
    background_worker()
    result = watched.tell_when_stopped.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    Job.objects.filter(pk=result.id).update(lease_epoch=F("lease_epoch") + 1)
    wait_for(lambda: len(marks()) == 2, 10, "the job to leave")
    assert marks() == ["k:started", "k:told"]


def test_suspects_never_run_side_by_side_in_a_process(work, marks):
    for key in ("a", "b"):
        watched.mark_both_ends.enqueue(key, 0.3)
    Job.objects.update(crashes=SUSPECT_FROM)
    work(threads=2)
    first, second = marks()[0][0], marks()[2][0]
    assert marks() == [f"{first}:began", f"{first}:ended", f"{second}:began", f"{second}:ended"]
    assert {first, second} == {"a", "b"}


def test_a_second_look_follows_each_word(transactional_db):
    """The word may stand for another job, whose own was held back and which commits right after the first look."""
    worker = WorkerLoop(WorkerOptions())
    claim = Claim(free_slots=1, prefetch_limits={}, take_suspect=True)
    worker.exchanger.exchange([], [], claim)
    worker.database.close()
    for _ in range(2):  # two words in a row: the second look is due after the last
        worker.poll_timer.hear_ready()
    heard_at = time.monotonic()
    worker.poll_timer.looked([], claim, worker.claimer, began=heard_at)
    again_at = worker.poll_timer.next_look(has_slot=True)
    assert again_at <= heard_at + notify.COALESCE_SECONDS + 0.01
    worker.poll_timer.looked([], claim, worker.claimer, began=again_at)
    assert worker.poll_timer.next_look(has_slot=True) > heard_at + 1.0


def test_a_job_whose_word_was_held_back_starts_within_a_second(background_worker):
    worker = background_worker(poll_seconds=60.0)
    with connect("default", application_name="pgonly tests") as other:
        for _ in range(20):
            wait_for(lambda: worker.poll_timer.drained)
            said_at = time.monotonic()
            other.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, notify.ready("default")])
            job = make(task="tests.jobs.add", args=[1])
            if time.monotonic() - said_at > notify.COALESCE_SECONDS:  # too late to be held back
                other.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, notify.ready("default")])
            wait_for(lambda job=job: Job.objects.get(pk=job.pk).state == State.SUCCEEDED, 5, "its end")


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


def test_the_end_of_a_run_is_kept_when_an_earlier_run_of_its_job_is_cut_off(background_worker, marks, caplog):
    worker = background_worker(threads=2)
    result = watched.stay_at_first.enqueue("k")
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


@pytest.fixture
def prefetched(background_worker, marks):
    """A stopped worker's jobs: one that runs until it is told to stop, and five that were claimed ahead."""
    worker = background_worker(threads=1, grace_seconds=10.0)
    worker.prefetch.note("default", 0.0001)
    jobs.hold_on.enqueue("long")
    wait_for(lambda: "long:started" in marks())
    results = [jobs.mark_once.enqueue(f"ahead {i}") for i in range(5)]
    ids = [result.id for result in results]
    wait_for(lambda: Job.objects.filter(pk__in=ids, state=State.RUNNING).count() == 5, what="the claims")
    worker.stop()
    assert worker.left.wait(10)
    return Job.objects.filter(pk__in=ids)


def test_claims_that_have_not_begun_go_back_at_a_stop_and_do_not_start_in_the_grace(prefetched, marks):
    assert marks() == ["long:started"]
    facts = prefetched.values_list("state", "attempt", "interruptions", "errors")
    assert list(facts) == [(State.READY, 0, 0, [])] * 5


def test_progress_is_written_twice_a_second_at_most(background_worker):
    background_worker(queues=("default",))
    result = watched.count_quickly.enqueue(3.0)
    seen, began = set(), None
    while result.job.state != State.SUCCEEDED:
        with connection.cursor() as cursor:  # which wakes the loop
            cursor.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, notify.ready("another queue")])
            cursor.execute("SELECT xmin::text FROM pgonly_job WHERE progress IS NOT NULL")
            versions = cursor.fetchall()
        if versions:
            began = began or time.monotonic()
            seen.update(versions)
        time.sleep(0.005)
    lasted = time.monotonic() - began
    assert result.progress["done"] == result.job.result
    assert (
        2 <= len(seen) <= lasted / 0.5 + 4
    )  # the first, the last one, the end, and one renewal of the lease


def test_maintenance_runs_as_long_as_the_worker(background_worker):
    worker = background_worker()
    assert worker.maintenance.is_alive()
    worker.stop()
    worker.maintenance.join(10)
    assert not worker.maintenance.is_alive()
