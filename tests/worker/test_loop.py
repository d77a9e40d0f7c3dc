"""What a worker's loop does between a job's claim and its end."""

from __future__ import annotations

import pytest
from django.db.models import F

from pgonly_django.models import Job, State
from pgonly_django.models.job import SUSPECT_FROM
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.worker import WorkerLoop
from tests import jobs
from tests.jobs import watched
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


def test_maintenance_runs_as_long_as_the_worker(background_worker):
    worker = background_worker()
    assert worker.maintenance.is_alive()
    worker.stop()
    worker.maintenance.join(10)
    assert not worker.maintenance.is_alive()


def test_several_suspects_are_all_run_before_a_burst_ends(work):
    results = [jobs.add.enqueue(i) for i in range(3)]
    Job.objects.update(crashes=2)
    work()
    assert [result.wait(1).return_value for result in results] == [1, 2, 3]
    assert set(Job.objects.values_list("crashes", flat=True)) == {0}


def test_a_worker_that_breaks_down_renews_no_lease(transactional_db):
    worker = WorkerLoop(WorkerOptions(threads=1))
    worker.inbox.put(object())  # which its loop cannot make head nor tail of
    with pytest.raises(AttributeError):
        worker.run()
    worker.heartbeat.join(5)
    assert not worker.heartbeat.is_alive()
    worker.maintenance.join(5)
    assert not worker.maintenance.is_alive()
