"""The jobs of workers whose process was seen to end."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from pgonly_django.database.connect import connect
from pgonly_django.models import Worker
from pgonly_django.models.job import State
from pgonly_django.queue.rescue import ADVISORY_LOCK, end_sessions, rescue_known_dead
from tests.queue.rows import fresh, make_running, make_worker, while_locked
from tests.waiting import wait_for


@pytest.fixture
def dead(transactional_db) -> Worker:
    return make_worker(name="the dead one")


@pytest.fixture
def session_of_the_dead(dead):
    with connect("default", application_name=f"pgonly jobs {dead.id}") as connection:
        yield connection


def states(*jobs) -> list[tuple[str, int]]:
    return [(fresh(job).state, fresh(job).crashes) for job in jobs]


def test_its_jobs_go_back_although_leases_and_heartbeat_are_fresh(server, dead):
    mine, living = make_running(dead.id, attempt=2), make_running(make_worker().id)
    rescued, still = rescue_known_dead(server, dead.id)
    assert [job.id for job in rescued] == [mine.id]
    assert not still
    row = fresh(mine)
    assert (row.state, row.attempt, row.crashes) == (State.READY, 1, 1)
    assert row.errors[-1]["outcome"] == "crashed"
    assert fresh(living).state == State.RUNNING
    assert Worker.objects.get(pk=dead.id).stopped_at is not None


def test_a_worker_that_was_told_to_stop_costs_its_jobs_nothing(server, dead):
    job = make_running(dead.id, crashes=2)
    rescue_known_dead(server, dead.id, planned=True)
    assert states(job) == [(State.READY, 2)]
    assert (fresh(job).interruptions, fresh(job).errors[-1]["outcome"]) == (1, "released")


def test_a_worker_that_died_before_it_had_a_row_is_no_exception(server, transactional_db):
    unknown = uuid4()
    job = make_running(unknown)
    assert rescue_known_dead(server, unknown)[1] is False
    assert states(job) == [(State.READY, 1)]


def test_a_locked_job_is_named_and_is_blamed_later(server, other, dead):
    """Were its worker marked as stopped at once, a job that kills each worker would never be counted."""
    locked, free = make_running(dead.id), make_running(dead.id)
    with while_locked(locked, other):
        assert rescue_known_dead(server, dead.id)[1] is True
    assert states(free, locked) == [(State.READY, 1), (State.RUNNING, 0)]
    assert Worker.objects.get(pk=dead.id).stopped_at is None
    assert rescue_known_dead(server, dead.id)[1] is False
    assert states(locked) == [(State.READY, 1)]


def test_beside_another_rescue_it_comes_again(server, other, dead):
    job = make_running(dead.id)
    with other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
        assert rescue_known_dead(server, dead.id) == ([], True)
    assert len(rescue_known_dead(server, dead.id)[0]) == 1
    assert states(job) == [(State.READY, 1)]


def test_a_locked_row_of_the_worker_holds_up_nothing(server, other, dead):
    job = make_running(dead.id)
    with while_locked(dead, other, server):
        assert rescue_known_dead(server, dead.id)[1] is False
    assert states(job) == [(State.READY, 1)]


def test_twice_does_what_once_does(server, dead):
    job = make_running(dead.id)
    rescue_known_dead(server, dead.id)
    assert rescue_known_dead(server, dead.id) == ([], False)
    assert states(job) == [(State.READY, 1)]


def test_a_transaction_that_is_left_open_is_ended(server, session_of_the_dead, dead):
    job = make_running(dead.id)
    session_of_the_dead.execute("BEGIN")
    session_of_the_dead.execute("SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [job.id])
    assert end_sessions(server, dead.id) == [session_of_the_dead.info.backend_pid]
    assert rescue_known_dead(server, dead.id)[1] is False
    assert states(job) == [(State.READY, 1)]
    with pytest.raises(psycopg.OperationalError):
        session_of_the_dead.execute("COMMIT")


def test_a_claim_that_was_sent_before_the_death_is_waited_for(server, session_of_the_dead, dead):
    """PostgreSQL executes what it has received although the sender is gone: a claim would come after the rescue."""
    job = make_running(dead.id)
    late = f"UPDATE pgonly_job SET retention = '1s' WHERE id = '{job.id}' AND pg_sleep(0.1) IS NOT NULL"
    thread = threading.Thread(target=lambda: session_of_the_dead.execute(late))
    thread.start()
    is_active = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    wait_for(lambda: server.execute(is_active, [session_of_the_dead.info.backend_pid]).rowcount)
    assert end_sessions(server, dead.id) == []
    assert fresh(job).retention == timedelta(seconds=1)
    thread.join()
    assert rescue_known_dead(server, dead.id)[1] is False
    assert states(job) == [(State.READY, 1)]


def test_sessions_that_stand_idle_and_those_of_others_are_left_alone(
    server, other, session_of_the_dead, dead
):
    other.execute("SELECT set_config('application_name', %s, false)", [f"pgonly jobs {uuid4()}"])
    other.execute("BEGIN")
    other.execute("SELECT pg_current_xact_id()")
    assert end_sessions(server, dead.id) == []
    other.execute("COMMIT")
    session_of_the_dead.execute("SELECT 1")
