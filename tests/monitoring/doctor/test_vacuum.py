"""What holds vacuum back, and dead rows that stay: each of them a real one."""

from __future__ import annotations

import json
import shutil

import psycopg
import pytest
from django.db import connection

from pgonly_django.embedded import unprivileged
from pgonly_django.monitoring.conditions import OLD_SNAPSHOT
from pgonly_django.monitoring.doctor import vacuum
from pgonly_django.monitoring.findings import Level
from pgonly_django.tables import qualified
from tests.jobs.transactions import stand_still
from tests.monitoring.doctor.conftest import found
from tests.queue.rows import insert_jobs
from tests.sql import value
from tests.waiting import wait_for


@pytest.fixture
def at_once(monkeypatch):
    """What has been open for a moment counts as old, without five minutes of waiting."""
    monkeypatch.setattr(OLD_SNAPSHOT, "limit", 0.3)


def old_transaction():
    return wait_for(lambda: found("vacuum").get("D021"))


def test_a_transaction_that_a_job_holds_is_named_by_its_task(at_once, workers, marks):
    worker = workers.start(lease=60)
    job = stand_still.enqueue(60)
    finding = old_transaction()
    assert finding.level == Level.WARNING
    assert f"tests.jobs.transactions.stand_still (job {job.id}) of the worker {worker.name}" in finding.fact
    assert f"manage.py pgonly_jobs cancel {job.id}" in finding.advice
    assert finding.data["jobs"] == [{"id": str(job.id), "task": "tests.jobs.transactions.stand_still"}]
    assert value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", finding.data["pid"]) == 1
    json.dumps(finding.as_dict())


def test_the_statement_in_the_advice_ends_the_transaction(at_once, other, sql, monkeypatch):
    forgotten = psycopg.connect(other.info.dsn, application_name="a forgotten shell")
    forgotten.execute("SELECT count(*), pg_current_xact_id() FROM pgonly_job")
    finding = old_transaction()
    assert "a forgotten shell" in finding.fact
    assert "waits for its client" in finding.fact
    monkeypatch.setattr(OLD_SNAPSHOT, "error_from", 0.3)
    assert old_transaction().level == Level.ERROR
    sql(finding.advice.partition(": ")[2])
    wait_for(lambda: "D021" not in found("vacuum"))
    with pytest.raises(psycopg.OperationalError):
        forgotten.execute("SELECT 1")
    forgotten.close()


def test_a_transaction_of_less_than_five_minutes_is_no_finding(other):
    other.execute("BEGIN")
    other.execute("SELECT count(*), pg_current_xact_id() FROM pgonly_job")
    assert found("vacuum") == {}


def test_who_waits_for_an_exclusive_lock_is_named_with_those_before_him(monkeypatch, server, other):
    monkeypatch.setattr(vacuum.LOCKED, "limit", 0)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM pgonly_job")
    waiter = server.pgconn
    waiter.send_query(qualified("ALTER TABLE pgonly_job ADD COLUMN x int").encode())
    try:
        finding = wait_for(lambda: found("vacuum").get("D025"))
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


def test_while_our_tables_are_locked_transactions_are_named_all_the_same(at_once, server, other, monkeypatch):
    monkeypatch.setattr(vacuum.LOCKED, "limit", 0)
    other.execute("BEGIN")
    other.execute("LOCK TABLE pgonly_job, pgonly_worker IN ACCESS EXCLUSIVE MODE")
    assert old_transaction().data["pid"] == other.info.backend_pid
    assert "has locked pgonly_" in found("vacuum")["D025"].fact


def test_a_prepared_transaction(own_server, monkeypatch):
    monkeypatch.setattr(vacuum.PREPARED, "limit", 0)
    with psycopg.connect(own_server.server.url(), autocommit=True) as raw:
        raw.execute("BEGIN")
        raw.execute("INSERT INTO pgonly_queue_tokens (queue, tokens, refilled_at) VALUES ('a', 1, now())")
        raw.execute("PREPARE TRANSACTION 'it''s forgotten'")
    finding = own_server.found("vacuum")["D022"]
    assert finding.level == Level.WARNING
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
    assert " of WAL on the disk" in finding.fact
    own_server.execute(finding.advice.rpartition(": ")[2])
    assert own_server.found("vacuum") == {}


@pytest.mark.parametrize("setting", ["autovacuum", "track_counts"])
def test_autovacuum_off_on_the_server(own_server, setting):
    assert own_server.found("dead-rows") == {}
    own_server.set(**{setting: "off"})
    finding = own_server.found("dead-rows")["D031"]
    assert finding.level == Level.ERROR
    own_server.execute(*finding.advice.partition(" Look")[0].rstrip(";").split("; "))
    assert own_server.found("dead-rows") == {}


def test_autovacuum_off_for_a_table(sql):
    sql("ALTER TABLE pgonly_session SET (autovacuum_enabled = false)")
    try:
        finding = found("dead-rows")["D033"]
        assert "the table pgonly_session" in finding.fact
        sql(finding.advice)
        assert "D033" not in found("dead-rows")
    finally:
        sql("ALTER TABLE pgonly_session RESET (autovacuum_enabled)")


@pytest.fixture
def many_dead(sql, monkeypatch):
    """40,000 jobs that were ready, and are claimed by now; autovacuum does not come in between."""
    sql(
        "ALTER TABLE pgonly_job SET (autovacuum_enabled = off)",
        "TRUNCATE pgonly_job CASCADE",
        "SELECT pg_stat_reset_single_table_counters('pgonly_job'::regclass)",
        insert_jobs("generate_series(1, 40000) AS n", queue="'mail'"),
    )
    yield lambda: sql("UPDATE pgonly_job SET state = 'succeeded', finished_at = now()")
    sql("TRUNCATE pgonly_job CASCADE", "ALTER TABLE pgonly_job RESET (autovacuum_enabled)")


@pytest.fixture
def vacuum_elsewhere(sql):
    """In a database that was copied from the same template, where the table has the same OID."""
    sql(
        "CREATE TEMP VIEW pg_stat_progress_vacuum AS "
        "SELECT 'another'::name AS datname, 'pgonly_job'::regclass::oid AS relid"
    )
    yield
    sql("DROP VIEW pg_temp.pg_stat_progress_vacuum")


@pytest.mark.slow
def test_autovacuum_is_behind(sql, many_dead, vacuum_elsewhere):
    many_dead()
    if connection.pg_version >= 150000:
        sql("SELECT pg_stat_force_next_flush()")

    def behind():
        sql("SELECT pg_stat_clear_snapshot()")
        return found("dead-rows").get("D034")

    finding = wait_for(behind)  # PostgreSQL 14 has a process that collects the statistics, twice a second
    assert finding.level == Level.WARNING
    assert "pgonly_job has 40,00" in finding.fact
    sql(finding.advice.partition(";")[0])
    wait_for(lambda: not behind())


def test_a_claim_walks_over_dead_entries_while_an_old_transaction_is_open(sql, many_dead, other):
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    other.execute("SELECT count(*) FROM pgonly_job")
    many_dead()
    sql("VACUUM pgonly_job")
    finding = found("dead-rows")["D035"]
    assert finding.level == Level.WARNING
    assert finding.data["pages"] > vacuum.LONG_WALK.limit
    assert f"{finding.data['pages']:,} pages" in finding.fact
    other.execute("ROLLBACK")
    sql(finding.advice.rpartition(": ")[2])
    assert "D035" not in found("dead-rows")


@pytest.mark.slow
def test_the_age_of_the_oldest_row(server_to_ruin):
    """By pg_resetwal: the server believes that so many transactions have been."""
    server = server_to_ruin.server
    server.stop()
    next_id = 1_600 * 1024**2  # the first of a file of pg_xact, which has to be there
    server._run("pg_resetwal", "-f", "-x", str(next_id))
    commits = server.data / "pg_xact" / f"{next_id // 1024**2:04X}"
    commits.write_bytes(bytes(256 * 1024))
    if account := unprivileged():
        shutil.chown(commits, account["user"], account["group"])
    server.start()
    finding = server_to_ruin.found("dead-rows")["D036"]
    assert finding.level == Level.ERROR
    assert finding.data["age"] > 1_500_000_000
    assert "VACUUM (FREEZE, VERBOSE) " in finding.advice
