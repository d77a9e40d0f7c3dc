"""Transactions, slots and locks that hold vacuum back, each of them a real one."""

from __future__ import annotations

import json
from datetime import timedelta

import psycopg
import pytest
from django.db import connection

from pgonly_django.monitoring.doctor import vacuum
from pgonly_django.monitoring.doctor.findings import Level
from pgonly_django.tables import qualified
from tests.jobs.transactions import stand_still
from tests.monitoring.doctor.conftest import found
from tests.waiting import wait_for


@pytest.fixture
def at_once(monkeypatch):
    """What has been open for a moment counts as old, without five minutes of waiting."""
    monkeypatch.setattr(vacuum, "OLD", timedelta(milliseconds=300))


def old_transaction():
    wait_for(lambda: "D021" in found("vacuum"))
    return found("vacuum")["D021"]


def test_a_transaction_that_a_job_holds_is_named_by_its_task(at_once, workers, marks):
    worker = workers.start(lease=60)
    job = stand_still.enqueue(60)
    finding = old_transaction()
    assert finding.level == Level.WARNING
    assert "tests.jobs.transactions.stand_still" in finding.fact
    assert str(job.id) in finding.fact
    assert f"of the worker {worker.name}" in finding.fact
    assert f"manage.py pgonly_jobs cancel {job.id}" in finding.advice
    assert finding.data["jobs"] == [{"id": str(job.id), "task": "tests.jobs.transactions.stand_still"}]
    assert finding.data["pid"] in {pid for (pid,) in _pids()}
    json.dumps(finding.as_dict())


def _pids():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        return cursor.fetchall()


def test_the_statement_in_the_advice_ends_the_transaction(at_once, other, sql):
    forgotten = psycopg.connect(other.info.dsn, application_name="a forgotten shell")
    forgotten.execute("SELECT count(*), pg_current_xact_id() FROM pgonly_job")
    finding = old_transaction()
    assert "a forgotten shell" in finding.fact
    assert "waits for its client" in finding.fact
    sql(finding.advice.partition(": ")[2])
    wait_for(lambda: "D021" not in found("vacuum"))
    with pytest.raises(psycopg.OperationalError):
        forgotten.execute("SELECT 1")
    forgotten.close()


def test_after_an_hour_it_is_an_error(monkeypatch, at_once, other):
    monkeypatch.setattr(vacuum, "LONG", timedelta(0))
    other.execute("BEGIN")
    other.execute("SELECT count(*), pg_current_xact_id() FROM pgonly_job")
    assert old_transaction().level == Level.ERROR


def test_a_transaction_of_less_than_five_minutes_is_no_finding(other):
    other.execute("BEGIN")
    other.execute("SELECT count(*), pg_current_xact_id() FROM pgonly_job")
    assert found("vacuum") == {}


def test_who_waits_for_an_exclusive_lock_is_named_with_those_before_him(monkeypatch, server, other):
    monkeypatch.setattr(vacuum, "LOCKED_FOR", timedelta(0))
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM pgonly_job")
    waiter = server.pgconn
    waiter.send_query(qualified("ALTER TABLE pgonly_job ADD COLUMN x int").encode())
    try:
        wait_for(lambda: "D025" in found("vacuum"))
        finding = found("vacuum")["D025"]
        assert finding.level == Level.ERROR
        assert "waits for an exclusive lock of pgonly_job" in finding.fact
        assert finding.data["blocked_by"] == [other.info.backend_pid]
        locked = found("queues")
        assert list(locked) == ["D006"]
        assert locked["D006"].level == Level.WARNING
    finally:
        with psycopg.connect(other.info.dsn) as third:
            third.execute("SELECT pg_cancel_backend(%s)", [server.info.backend_pid])
        while waiter.get_result() is not None:
            pass
        other.execute("ROLLBACK")


def test_while_our_tables_are_locked_transactions_are_named_all_the_same(at_once, server, other):
    other.execute("BEGIN")
    other.execute("LOCK TABLE pgonly_job, pgonly_worker IN ACCESS EXCLUSIVE MODE")
    assert old_transaction().data["pid"] == other.info.backend_pid


def test_a_prepared_transaction(at_once, own_server):
    with psycopg.connect(own_server.server.url(), autocommit=True) as raw:
        raw.execute("BEGIN")
        raw.execute("INSERT INTO pgonly_queue_tokens (queue, tokens, refilled_at) VALUES ('a', 1, now())")
        raw.execute("PREPARE TRANSACTION 'it''s forgotten'")
    wait_for(lambda: "D022" in own_server.found("vacuum"))
    finding = own_server.found("vacuum")["D022"]
    assert '"it\'s forgotten" of postgres' in finding.fact
    own_server.execute(finding.advice.rpartition(": ")[2])
    assert "D022" not in own_server.found("vacuum")


@pytest.mark.parametrize("kind", ["physical", "logical"])
def test_a_replication_slot_that_nothing_reads(own_server, kind):
    more = "true" if kind == "physical" else "'pgoutput'"
    assert own_server.found("vacuum") == {}
    own_server.execute(f"SELECT pg_create_{kind}_replication_slot('forgotten', {more})")
    finding = own_server.found("vacuum")["D023"]
    assert finding.level == Level.WARNING
    assert f"{kind} replication slot 'forgotten'" in finding.fact
    own_server.execute(finding.advice.rpartition(": ")[2])
    assert own_server.found("vacuum") == {}
