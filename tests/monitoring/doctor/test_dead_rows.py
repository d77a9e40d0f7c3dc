"""Autovacuum that is off or behind, and claims that walk over dead entries."""

from __future__ import annotations

import shutil

import pytest
from django.db import connection

from pgonly_django.embedded import unprivileged
from pgonly_django.monitoring.doctor import dead_rows
from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import found
from tests.queue.rows import insert_jobs
from tests.waiting import wait_for


def test_autovacuum_off_on_the_server(own_server):
    assert own_server.found("dead-rows") == {}
    own_server.set(autovacuum="off")
    finding = own_server.found("dead-rows")["D031"]
    assert finding.level == Level.ERROR
    own_server.execute(*finding.advice.rstrip(";").split("; "))
    assert own_server.found("dead-rows") == {}


def test_statistics_off_on_the_server(own_server):
    own_server.set(track_counts="off")
    assert own_server.found("dead-rows")["D032"].level == Level.ERROR


@pytest.mark.parametrize("value", ["off", "false"])
def test_autovacuum_off_for_a_table(sql, value):
    sql(f"ALTER TABLE pgonly_session SET (autovacuum_enabled = {value})")
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
    assert finding.data["pages"] > dead_rows.WALK_PAGES
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
