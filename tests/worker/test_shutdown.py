from __future__ import annotations

import threading
import time

from pgonly_django.database.connect import connect
from pgonly_django.exceptions import JobStopped
from pgonly_django.models import State
from pgonly_django.worker.finishes import WorkerFacts
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.shutdown import Shutdown
from tests import jobs
from tests.waiting import wait_for
from tests.worker.test_in_flight import run_of


def test_to_release_at_once_waits_for_no_locked_row(background_worker, marks, caplog):
    worker = background_worker(grace_seconds=300.0)
    result = jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    with connect("default", application_name="a view") as view, view.transaction():
        view.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [result.id])
        worker.stop_now()
        assert worker.left.wait(10)
    assert result.job.state == State.RUNNING
    assert (
        f"since their rows are locked; they run elsewhere once their leases are over: {result.id}"
        in caplog.text
    )


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
    shutdown = Shutdown(20.0, WorkerFacts("id", "name"))
    shutdown.ask()
    shutdown.obey(100.0, held)
    shutdown.obey(118.9, held)
    assert (run.stop_requested, run.stop_until, interrupted.is_set()) == (True, 120.0, False)
    shutdown.obey(119.1, held)
    assert interrupted.wait(20)
    job.join()
    assert (held.ended, shutdown.left_behind) == ({}, False)
    shutdown.obey(120.0, held)
    assert ([*held.ended], shutdown.left_behind) == ([run.job.id], True)


def test_a_stop_without_jobs_promises_no_time(caplog):
    caplog.set_level("INFO", "pgonly_django.worker")
    shutdown = Shutdown(20.0, worker=None)
    shutdown.ask()
    shutdown.obey(time.monotonic(), InFlight())
    assert caplog.messages == ["Stopping: no job runs here."]


def test_a_stop_that_releases_at_once_promises_no_time_either(background_worker, marks, caplog):
    caplog.set_level("INFO", "pgonly_django.worker")
    worker = background_worker(grace_seconds=300.0)
    jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    worker.stop_now()
    assert worker.left.wait(10)
    assert "Stopping: 1 job(s) are released now." in caplog.messages
