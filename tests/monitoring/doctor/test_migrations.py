"""Tables that are missing, and migrations that are not applied."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from pgonly_django.conf import schema
from pgonly_django.monitoring.doctor.examination import examine
from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import at, found


@pytest.fixture
def recorder(transactional_db):
    return MigrationRecorder(connection)


@pytest.mark.slow
def test_an_empty_database_is_told_to_migrate(server_to_ruin):
    call_command("migrate", "pgonly_django", "zero", database="own", verbosity=0, skip_checks=True)
    finding = server_to_ruin.found("tables")["D052"]
    assert finding.level == Level.ERROR
    assert "0001_initial" in finding.data["pending"]
    assert finding.advice == "manage.py migrate pgonly_django --database own"
    report = examine("own")
    assert [each.id for each in report.findings] == ["D052"]
    named = {each.name for each in report.subjects}
    assert not named & {"indexes", "queues", "workers", "jobs", "growth"}
    assert {"server", "listen", "vacuum", "dead-rows", "settings"} <= named
    assert "D003" in server_to_ruin.found("queues")  # where D052 is not asked for


def test_a_migration_that_is_not_applied(recorder):
    recorder.record_unapplied("pgonly_django", "0001_initial")
    try:
        finding = found("tables")["D052"]
        assert finding.data["pending"] == ["0001_initial"]
    finally:
        recorder.record_applied("pgonly_django", "0001_initial")


def test_what_a_pending_migration_would_make_is_not_said_twice(recorder, sql):
    recorder.record_unapplied("pgonly_django", "0001_initial")
    sql(f"ALTER INDEX {at('pgonly_job_cancelled')} RENAME TO elsewhere")
    try:
        assert found("tables")["D052"].data["pending"] == ["0001_initial"]
        assert "D041" not in found("indexes")
    finally:
        recorder.record_applied("pgonly_django", "0001_initial")
        sql(f"ALTER INDEX {at('elsewhere')} RENAME TO pgonly_job_cancelled")


def test_a_table_that_is_missing(sql):
    sql("ALTER TABLE pgonly_tick RENAME TO pgonly_gone")
    try:
        finding = found("tables")["D051"]
        assert finding.level == Level.ERROR
        assert finding.data == {"table": "pgonly_tick"}
        assert "D041" not in found("indexes")
    finally:
        sql(f"ALTER TABLE {at('pgonly_gone')} RENAME TO pgonly_tick")


def test_tables_in_another_schema(sql):
    sql("CREATE SCHEMA elsewhere", "ALTER TABLE pgonly_tick SET SCHEMA elsewhere")
    try:
        findings = found("tables")
        assert list(findings) == ["D053"]
        assert "pgonly_tick" in findings["D053"].fact
    finally:
        place = schema() or sql("SELECT current_schema()")[0][0]
        sql(f'ALTER TABLE elsewhere.pgonly_tick SET SCHEMA "{place}"', "DROP SCHEMA elsewhere")


def test_migrations_of_a_later_version(recorder):
    recorder.record_applied("pgonly_django", "9999_later")
    try:
        finding = found("tables")["D054"]
        assert finding.level == Level.INFO
        assert "9999_later" in finding.fact
    finally:
        recorder.record_unapplied("pgonly_django", "9999_later")
