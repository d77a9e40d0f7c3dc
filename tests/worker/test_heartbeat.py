"""What a beat does besides renewing: find claims that it does not know, rescue, wake."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from pgonly_django import wake
from pgonly_django.models import Worker as WorkerRow
from pgonly_django.models.job import State
from pgonly_django.postgres import connect
from pgonly_django.queue.finish import Outcome
from pgonly_django.queue.lease import register
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.worker import Worker
from tests.queue.rows import HOUR, ago, fresh, make_running, make_worker


@pytest.fixture
def worker(transactional_db, settings):
    settings.PGONLY = {"LEASE_SECONDS": 2}  # the server itself has to have been up for half of it
    made = Worker(WorkerOptions(name="beating"))
    yield made
    made.announcer.close(5)


@pytest.fixture
def server(transactional_db):
    with connect("default", application_name="pgonly tests") as opened:
        yield opened


@pytest.fixture
def other(transactional_db):
    with connect("default", application_name="pgonly tests, another") as opened:
        yield opened


def test_a_row_in_its_name_that_it_does_not_know_twice_goes_back(worker, server):
    """A claim whose answer was lost. Once unknown, it may be on its way here."""
    job = make_running(worker.id)
    worker.heartbeat.beat(server)
    assert worker.mail.take(10, 0) == []
    worker.heartbeat.beat(server)
    (finish,) = worker.mail.take(10, 0)
    assert (finish.id, finish.lease, finish.outcome) == (str(job.id), job.lease, Outcome.RELEASED)


def test_a_rescue_wakes_the_other_workers_and_its_own(worker, server, other):
    job = make_running(make_worker(silent_for=HOUR).id, lease_expires_at=ago(HOUR), queue="mail")
    other.execute(f"LISTEN {wake.CHANNEL}")
    worker.heartbeat.beat(server)  # the first one registers the worker
    worker.heartbeat.beat(server)
    assert fresh(job).state == State.READY
    other.execute("SELECT 1")
    assert [notify.payload for notify in other.notifies(timeout=0)] == ["ready mail"]
    assert worker.mail.take(10, 0) == ["ready mail"]


def test_a_beat_whose_worker_s_row_is_locked_says_so_and_renews_all_the_same(worker, server, other):
    worker.heartbeat.beat(server)
    assert worker.heartbeat.beat(server)
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("SELECT FROM pgonly_worker WHERE id = %s FOR UPDATE", [worker.id])
        assert not worker.heartbeat.beat(server)
    assert worker.heartbeat.beat(server)


def test_to_register_a_worker_again_waits_for_no_lock(worker, server, other):
    worker.heartbeat.beat(server)
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("SELECT FROM pgonly_worker WHERE id = %s FOR UPDATE", [worker.id])
        register(server, worker.heartbeat.facts())
    assert WorkerRow.objects.filter(pk=worker.id).count() == 1


def test_a_job_that_a_frozen_worker_holds_in_its_transaction_is_rescued(worker, server, caplog):
    dead = make_worker(silent_for=HOUR)
    job = make_running(dead.id, lease_expires_at=ago(HOUR))
    worker.heartbeat.beat(server)
    with connect("default", application_name=f"pgonly jobs {dead.id}") as frozen:
        frozen.execute("BEGIN")
        frozen.execute("SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [job.id])
        worker.heartbeat.beat(server)
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("COMMIT")
    assert fresh(job).state == State.READY
    assert f"Ended the transaction that the dead worker {dead.id} had open" in caplog.text


def test_where_it_may_not_end_transactions_it_says_so_once(worker, server, caplog):
    dead = make_worker(silent_for=HOUR)
    job = make_running(dead.id, lease_expires_at=ago(HOUR))
    worker.heartbeat.beat(server)
    role = f"pgonly_test_{uuid4().hex[:8]}"
    server.execute(f"CREATE ROLE {role} IN ROLE pg_read_all_data, pg_write_all_data, pg_read_all_stats")
    try:
        with connect("default", application_name=f"pgonly jobs {dead.id}") as frozen, frozen.transaction():
            frozen.execute("SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [job.id])
            server.execute(f"SET ROLE {role}")
            for _ in range(2):
                worker.heartbeat.beat(server)
    finally:
        server.execute("RESET ROLE")
        server.execute(f"DROP ROLE {role}")
    assert caplog.text.count("What dead workers have open keeps its locks") == 1
    assert fresh(job).state == State.RUNNING
