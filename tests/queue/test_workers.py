"""The worker's own row."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from pgonly_django.models import State, Worker
from pgonly_django.queue.workers import Beat, fall_asleep, forget, heartbeat
from tests.queue.rows import HOUR, ago, make, make_running, make_worker


def test_a_heartbeat_is_written_down_with_the_number_of_jobs(server):
    worker = make_worker(silent_for=HOUR)
    heartbeat(server, worker.id, 7)
    worker.refresh_from_db()
    assert worker.running == 7
    assert worker.heartbeat_at > ago(timedelta(minutes=1))


@pytest.mark.parametrize(("expired", "answer"), [(True, True), (False, False)])
def test_a_heartbeat_says_whether_some_lease_has_run_out(server, expired, answer):
    make_running(lease_expires_at=ago(HOUR if expired else -HOUR))
    assert heartbeat(server, make_worker().id, 0) == Beat(True, answer, some_running=True, request=None)


def test_a_heartbeat_does_not_wait_for_its_own_locked_row(server, other):
    worker = make_worker(silent_for=HOUR)
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("SELECT FROM pgonly_worker WHERE id = %s FOR UPDATE", [worker.id])
        assert heartbeat(server, worker.id, 0) == Beat(False, False, some_running=False, request=None)
    assert heartbeat(server, worker.id, 0).was_written


def test_a_worker_whose_row_is_gone_learns_it(server):
    assert heartbeat(server, uuid4(), 0) is None
    assert not Worker.objects.exists()


def test_the_rows_of_long_gone_workers_are_deleted(server):
    make_worker(silent_for=HOUR)
    alive = make_worker()
    forget(server, timedelta(minutes=30))
    assert list(Worker.objects.all()) == [alive]


def test_a_locked_worker_row_holds_up_no_forgetting(server, other):
    dead, _ = make_worker(silent_for=HOUR), make_worker(silent_for=HOUR)
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("SELECT FROM pgonly_worker WHERE id = %s FOR UPDATE", [dead.id])
        forget(server, timedelta(minutes=30))
    assert list(Worker.objects.all()) == [dead]


def test_a_worker_falls_asleep_until_its_next_heartbeat_and_learns_what_is_due(server):
    worker = make_worker(silent_for=HOUR, running=3)
    assert fall_asleep(server, worker.id) == (True, None)
    worker.refresh_from_db()
    assert worker.sleeping_since > ago(timedelta(minutes=1))
    assert (worker.heartbeat_at > ago(timedelta(minutes=1)), worker.running) == (True, 0)
    make(state=State.SCHEDULED, run_at=ago(-HOUR))
    make(state=State.SCHEDULED, run_at=ago(-2 * HOUR))
    is_asleep, due_in = fall_asleep(server, worker.id)
    assert (is_asleep, due_in) == (True, pytest.approx(3600, abs=60))
    heartbeat(server, worker.id, 0)
    worker.refresh_from_db()
    assert worker.sleeping_since is None


def test_no_worker_falls_asleep_while_a_job_runs_or_its_row_is_gone(server):
    worker = make_worker()
    assert not fall_asleep(server, uuid4()).is_asleep
    make_running()
    assert not fall_asleep(server, worker.id).is_asleep
    worker.refresh_from_db()
    assert worker.sleeping_since is None
