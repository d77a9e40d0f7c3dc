from __future__ import annotations

import os
import threading

import pytest
from django.db import connections

from pgonly_django.events import subscribe
from pgonly_django.models import Job, State
from pgonly_django.worker import beside as module
from pgonly_django.worker import status as status_module
from pgonly_django.worker.beside import Beside, is_database_there
from pgonly_django.worker.health.health import Health
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import ExitCode, WorkerState
from pgonly_django.worker.supervisor.channel import Channel
from tests import jobs
from tests.waiting import wait_for
from tests.worker.health.test_server import ask, free_port


@pytest.fixture
def idle_worker(transactional_db):
    """A worker that does not run."""
    worker = WorkerLoop(WorkerOptions(threads=1, max_jobs_per_process=1))
    yield worker
    worker.database.close()
    worker.inbox.close()


@pytest.fixture
def supervised(idle_worker):
    """What runs beside it, and the supervisor's end of its channel."""
    ours, theirs = Channel.pair()
    beside = Beside(idle_worker, Health(), theirs)
    yield beside, ours
    for each in (ours, theirs, beside._inbox):
        each.close()


def told(supervisor, key):
    found = []

    def look():
        found.extend(message[key] for message in supervisor.receive() if key in message)
        return found

    return wait_for(look)


def test_without_anybody_to_speak_with_there_is_no_thread(transactional_db):
    worker = WorkerLoop(WorkerOptions(threads=1))
    with Beside(worker, Health()) as beside:
        assert not beside.is_alive()
    worker.inbox.close()


def test_the_id_is_told_before_the_worker_runs_and_its_end_at_the_end(supervised):
    """And at its end whether all has been given back, and whether it had no time for more."""
    beside, supervisor = supervised
    with beside:
        (first, *_) = told(supervisor, "status")
        beside.worker.deadline.claims_until = 0.0
    assert (first["worker_id"], first["state"]) == (str(beside.worker.id), WorkerState.STARTING)
    last = supervisor.receive()[-1]
    assert (last["holds_nothing"], last["is_out_of_time"]) == (True, True)
    assert not beside.is_alive()


def test_the_status_is_told_when_it_changes(supervised):
    beside, supervisor = supervised
    beside._turn()
    beside._turn()
    (message,) = supervisor.receive()
    beside.worker.following.jobs_released = 7
    beside._turn()
    assert supervisor.receive()[0]["status"] == {
        **message["status"],
        "jobs_released": 7,
        "turned_at": beside.worker.turned_at,
    }


def test_what_the_supervisor_says_reaches_the_main_loop(supervised):
    beside, supervisor = supervised
    supervisor.send({"payload": "wake"})
    supervisor.send({"payload": "rescued-failed 7"})
    beside._turn()
    assert beside.worker.inbox.take(10, 0.0) == ["wake", "rescued-failed 7"]


def test_a_worker_stops_when_the_supervisor_is_gone(supervised, caplog):
    beside, supervisor = supervised
    supervisor.close()
    beside._turn()
    beside._turn()
    assert beside.worker.is_stopping
    assert caplog.text.count("The supervisor has ended") == 1


def test_a_worker_waits_for_its_database_until_it_is_told_to_stop(idle_worker, monkeypatch):
    assert is_database_there(idle_worker)
    looks = []

    def nothing():
        looks.append(1)
        if len(looks) == 3:
            idle_worker.shutdown.ask()

    monkeypatch.setattr(idle_worker.database, "connection", nothing)
    assert not is_database_there(idle_worker)
    assert len(looks) == 3


def test_a_worker_that_breaks_down_does_not_tell_that_it_holds_nothing(supervised):
    beside, supervisor = supervised
    with pytest.raises(ZeroDivisionError), beside:
        raise ZeroDivisionError
    assert not any("holds_nothing" in message for message in supervisor.receive())


def test_a_process_retires_by_itself_and_tells_why(supervised):
    beside, supervisor = supervised
    beside.worker.plan.jobs_left = 0
    with beside:
        assert told(supervisor, "retire") == ["1 job(s) claimed (--max-jobs-per-process 1)"]
        assert "retire" in beside.worker.inbox.take(10, 0.0)


def test_a_worker_without_a_supervisor_retires_too(idle_worker, caplog):
    idle_worker.plan.jobs_left = 0
    with caplog.at_level("INFO", "pgonly_django"), Beside(idle_worker, Health(), owns_process=False):
        wait_for(lambda: "so that a fresh one can be started: 1 job(s) claimed" in caplog.text)
    assert idle_worker.inbox.take(10, 0.0) == ["retire"]


def test_a_process_retires_above_its_memory(transactional_db):
    def why(most):
        return Beside(WorkerLoop(WorkerOptions(max_memory_mb=most)), Health()).why_to_retire()

    assert "MB taken (--max-memory-mb 1)" in why(1.0)
    assert why(1_000_000) is None


def test_an_error_does_not_silence_the_process(supervised, monkeypatch):
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    said = []
    stop = subscribe(lambda name, facts: said.append(name))
    beside, supervisor = supervised
    with beside:
        told(supervisor, "status")
        with monkeypatch.context() as patch:
            patch.setattr(beside, "why_to_retire", lambda: 1 / 0)
            wait_for(lambda: "worker.status_not_told" in said)
        beside.worker.following.jobs_released = 7
        wait_for(lambda: told(supervisor, "status")[-1]["jobs_released"] == 7)
    stop()


def test_probes_are_answered_until_the_end(idle_worker):
    health = Health("127.0.0.1", free_port())
    with Beside(idle_worker, health, owns_process=False):
        assert ask(health, "GET", "/live")[0] == 200
        assert os.getpid() in health.statuses().memory
    assert health.server is None


def test_a_main_loop_that_hangs_is_not_live_while_its_health_port_answers(background_worker, monkeypatch):
    monkeypatch.setattr(status_module, "STALLED_SECONDS", 0.5)
    worker = background_worker(poll_seconds=0.1)
    goes_on, exchange = threading.Event(), worker._exchange
    health = Health("127.0.0.1", free_port())
    with Beside(worker, health, owns_process=False):
        wait_for(lambda: ask(health, "GET", "/live")[0] == 200)
        worker._exchange = lambda now: goes_on.wait(60) and exchange(now)
        wait_for(lambda: ask(health, "GET", "/live")[0] == 503)
        assert b"has not turned for" in ask(health, "GET", "/ready")[1]
        goes_on.set()
        wait_for(lambda: ask(health, "GET", "/ready")[0] == 200)


# How a worker retires.


def test_a_process_claims_no_more_jobs_than_it_may_run_however_short_they_are(transactional_db):
    results = [jobs.add.enqueue(1, 2) for _ in range(200)]
    worker = WorkerLoop(WorkerOptions(threads=4, max_jobs_per_process=10))
    assert worker.run() is ExitCode.REPLACE_ME
    assert Job.objects.filter(state=State.SUCCEEDED).count() == worker.following.jobs_done == 10
    assert Job.objects.filter(state=State.READY).count() == len(results) - 10
    connections.close_all()


@pytest.mark.parametrize("per_process", [1, 2])
def test_a_process_that_has_run_all_jobs_of_its_worker_asks_for_no_other(work, per_process):
    jobs.add.enqueue(1)
    assert work(max_jobs=1, max_jobs_per_process=per_process).code is ExitCode.STOPPED


def test_a_worker_that_has_retired_asks_for_a_fresh_process(transactional_db):
    worker = WorkerLoop(WorkerOptions(threads=1))
    worker.retire()
    assert worker.run() is ExitCode.REPLACE_ME
    connections.close_all()
