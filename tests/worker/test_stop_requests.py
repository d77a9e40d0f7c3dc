"""What a worker does when a person asks it to stop, or to end once its jobs are done."""

from __future__ import annotations

import pytest

from pgonly_django.database import notify
from pgonly_django.models import State
from pgonly_django.models import Worker as WorkerRow
from pgonly_django.models.worker import own_version
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import ExitCode
from pgonly_django.worker.stopping import StopRequests
from pgonly_django.worker.timers import NEVER
from tests import jobs
from tests.queue.rows import fresh, make_worker
from tests.waiting import wait_for


def row_of(worker):
    return WorkerRow.objects.filter(pk=worker.id)


def test_a_worker_says_of_which_version_it_is(background_worker):
    worker = background_worker()
    assert row_of(worker).get().version == own_version() != ""


def test_asked_to_stop_it_gives_its_jobs_back_at_no_cost(background_worker, marks, caplog):
    worker = background_worker(grace_seconds=0.2)
    result = jobs.sleep_in_slices.enqueue("k", 60.0)
    wait_for(lambda: "k:started" in marks())
    with caplog.at_level("INFO", "pgonly_django.worker"):
        row_of(worker).stop()
        assert worker.left.wait(10)
    job = fresh(result.job)
    assert (job.state, job.attempt, job.interruptions) == (State.READY, 0, 1)
    assert row_of(worker).get().stopped_at is not None
    said = [record for record in caplog.records if getattr(record, "event", "") == "worker.stop_requested"]
    assert [record.asked for record in said] == ["stop"]


def test_asked_to_drain_it_finishes_its_jobs_and_claims_no_more(background_worker, marks):
    worker = background_worker(threads=1)
    first = jobs.hold_on.enqueue("first", 1.0)
    wait_for(lambda: "first:started" in marks())
    later = jobs.mark_once.enqueue("later")
    row_of(worker).drain()
    assert worker.left.wait(10)
    assert (fresh(first.job).state, fresh(first.job).interruptions) == (State.SUCCEEDED, 0)
    assert fresh(later.job).state == State.READY


def test_a_worker_that_drains_can_be_asked_to_stop(background_worker, marks):
    worker = background_worker(threads=1, grace_seconds=0.2)
    first = jobs.hold_on.enqueue("first", 60.0)
    wait_for(lambda: "first:started" in marks())
    row_of(worker).drain()
    wait_for(lambda: worker.capacity.jobs_left < 0, what="the drain")
    row_of(worker).stop()
    assert worker.left.wait(10)
    assert fresh(first.job).state == State.READY


@pytest.mark.parametrize("verb", ["stop", "drain"])
def test_an_idle_worker_ends_with_code_0(verb, transactional_db):
    worker = WorkerLoop(WorkerOptions(threads=1))
    make_worker(id=worker.id)
    getattr(row_of(worker), verb)()  # the first heartbeat says so
    assert worker.run() is ExitCode.STOPPED


def test_another_worker_is_left_alone(background_worker):
    first, second = background_worker(), background_worker()
    row_of(first).drain()
    assert first.left.wait(10)
    assert jobs.add.enqueue(1, 2).wait(10).return_value == 3
    assert not second.left.is_set()


def test_a_worker_that_no_notify_reaches_learns_it_from_its_heartbeat(background_worker, settings):
    settings.PGONLY = {"LEASE_SECONDS": 2}
    worker = background_worker(listen=False)
    row_of(worker).drain()
    assert worker.left.wait(10)


def test_only_a_request_to_this_worker_is_looked_for_and_each_is_obeyed_once(server):
    worker, obeyed = make_worker(), []
    requests = StopRequests(worker.id, None, lambda: obeyed.append("stop"), lambda: obeyed.append("drain"))
    requests.hear_of(str(make_worker().id))
    assert requests.due_at == NEVER
    for worker_id in (str(worker.id), notify.ANY_WORKER):
        requests.hear_of(worker_id)
        assert requests.due_at == 0
        requests.ask(server)
        assert requests.due_at == NEVER
    assert obeyed == []
    WorkerRow.objects.filter(pk=worker.id).drain()
    requests.ask(server)
    requests.ask(server)
    WorkerRow.objects.filter(pk=worker.id).stop()
    requests.ask(server)
    requests.take("stop")
    requests.take("dance")
    assert obeyed == ["drain", "stop"]
