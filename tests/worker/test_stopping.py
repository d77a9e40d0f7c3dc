"""What a worker does when a person asks it to stop, or to end once its jobs are done."""

from __future__ import annotations

import threading
import time

import pytest
from psycopg import errors

from pgonly_django.compat import task_finished
from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.exceptions import JobStopped
from pgonly_django.models import State, Worker
from pgonly_django.models import Worker as WorkerRow
from pgonly_django.models.worker import own_version
from pgonly_django.tables import qualified
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import ExitCode
from pgonly_django.worker.stopping import LEAVE_SECONDS, Shutdown, StopRequests
from pgonly_django.worker.timers import NEVER
from tests import jobs
from tests.jobs import telling
from tests.queue.rows import fresh, make_worker
from tests.waiting import wait_for
from tests.worker.test_in_flight import run_of


def test_to_release_at_once_waits_for_no_locked_row_and_promises_no_time(background_worker, marks, caplog):
    caplog.set_level("INFO", "pgonly_django.worker")
    worker = background_worker(grace_seconds=300.0)
    result = jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    with connect("default", application_name="a view") as view, view.transaction():
        view.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [result.id])
        worker.stop_now()
        assert worker.left.wait(10)
    assert result.job.state == State.RUNNING
    assert "Stopping: 1 job(s) are released now." in caplog.messages
    assert f"their rows are locked; they run elsewhere after their leases end: {result.id}" in caplog.text


@pytest.mark.slow
def test_a_stopped_job_that_knows_no_context_gets_an_exception_before_it_is_released(
    background_worker, marks
):
    worker = background_worker(grace_seconds=2.0)
    result = jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    worker.stop()
    wait_for(lambda: "k:cleaned up" in marks(), what="its finally")
    wait_for(lambda: result.job.state == State.READY)
    assert (result.job.attempt, result.job.interruptions) == (0, 1)


def test_jobs_get_an_exception_before_the_end_of_the_grace_and_are_released_at_it():
    """In between is the time for their `finally`, and for what they write in it."""
    held, run, began, interrupted = InFlight(), run_of(), threading.Event(), threading.Event()

    def stay_until_interrupted():
        run.interrupter.open_thread()
        try:
            began.set()
            jobs.stay(30)
        except JobStopped:
            interrupted.set()

    assert run.take()  # as a slot does that starts it
    held.hold([run])
    job = threading.Thread(target=stay_until_interrupted)
    job.start()
    assert began.wait(20)
    shutdown = Shutdown(20.0)
    shutdown.ask()
    until = shutdown.leaves_at - LEAVE_SECONDS
    shutdown.obey(until - 20.0, held)
    shutdown.obey(until - 1.1, held)
    assert (run.stop_requested, run.stop_until, interrupted.is_set()) == (True, until, False)
    shutdown.obey(until - 0.9, held)
    assert interrupted.wait(20)
    job.join()
    assert (held.ended, shutdown.left_behind) == ({}, False)
    shutdown.obey(until, held)
    assert ([*held.ended], shutdown.left_behind) == ([run.job.id], True)


def test_the_grace_counts_from_the_signal_however_late_the_main_loop_hears_of_it():
    held, run = InFlight(), run_of()
    assert run.take()
    held.hold([run])
    shutdown = Shutdown(20.0)
    before = time.monotonic()
    shutdown.ask()
    after = time.monotonic()
    assert before + 20.0 + LEAVE_SECONDS <= shutdown.leaves_at <= after + 20.0 + LEAVE_SECONDS
    shutdown.obey(after + 10.0, held)
    assert before + 20.0 <= run.stop_until <= after + 20.0
    shutdown.ask()  # once more, which prolongs nothing
    assert shutdown.leaves_at <= after + 20.0 + LEAVE_SECONDS
    shutdown.ask(at_once=True)
    assert shutdown.leaves_at <= time.monotonic() + LEAVE_SECONDS


@pytest.mark.slow
def test_a_receiver_and_an_on_failure_that_hang_delay_the_end_of_a_stop_by_two_seconds(background_worker):
    """The last second of these is for the ends and the row of the worker."""
    over, reached = threading.Event(), threading.Event()

    def hang(**_facts):
        reached.set()
        over.wait(60)

    telling.hanging.clear()
    task_finished.connect(hang)
    worker = background_worker(grace_seconds=1.0)
    telling.fail.using(on_failure=telling.hangs).enqueue()
    try:
        assert reached.wait(20)
        wait_for(lambda: worker.calls.failures.is_going, what="the on_failure")
        began = time.monotonic()
        worker.stop()
        assert worker.left.wait(20)
        assert time.monotonic() - began < 1.0 + LEAVE_SECONDS + 1.5
    finally:
        over.set()
        telling.hanging.set()
        task_finished.disconnect(hang)
    assert Worker.objects.get(pk=worker.id).stopped_at is not None


def test_a_stop_without_jobs_promises_no_time(caplog):
    caplog.set_level("INFO", "pgonly_django.worker")
    shutdown = Shutdown(20.0)
    shutdown.ask()
    shutdown.obey(time.monotonic(), InFlight())
    assert caplog.messages == ["Stopping: no job runs here."]


def row_of(worker):
    return WorkerRow.objects.filter(pk=worker.id)


def test_a_worker_says_its_name_and_of_which_version_it_is(background_worker):
    row = row_of(background_worker(name="shelf")).get()
    assert (row.name, row.version) == ("shelf", own_version())
    assert row.version


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


@pytest.mark.parametrize("ask", [lambda worker: row_of(worker).drain(), WorkerLoop.retire])
def test_asked_to_drain_or_to_retire_it_finishes_its_jobs_and_claims_no_more(background_worker, marks, ask):
    worker = background_worker(threads=1)
    first = jobs.hold_on.enqueue("first", 1.0)
    wait_for(lambda: "first:started" in marks())
    later = jobs.mark_once.enqueue("later")
    ask(worker)
    assert worker.left.wait(10)
    assert (fresh(first.job).state, fresh(first.job).interruptions) == (State.SUCCEEDED, 0)
    assert fresh(later.job).state == State.READY


def test_a_worker_that_drains_can_be_asked_to_stop(background_worker, marks):
    worker = background_worker(threads=1, grace_seconds=0.2)
    first = jobs.hold_on.enqueue("first", 60.0)
    wait_for(lambda: "first:started" in marks())
    row_of(worker).drain()
    wait_for(lambda: worker.plan.jobs_left < 0, what="the drain")
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


def test_a_request_that_could_not_be_looked_for_is_looked_for_again(server):
    worker = make_worker()
    requests = StopRequests(worker.id, None, lambda: None, lambda: None)
    requests.hear_of(str(worker.id))
    with connect("default", application_name="a migration") as other, other.transaction():
        other.execute(qualified("LOCK TABLE pgonly_worker"))
        server.execute("SET lock_timeout = '20ms'")
        with pytest.raises(errors.LockNotAvailable):
            requests.ask(server)
    assert requests.due_at < NEVER
