"""Tables and indexes that are missing, and migrations that are not applied."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from pgonly_django.conf import schema
from pgonly_django.monitoring.doctor.examination import examine
from pgonly_django.monitoring.doctor.tables import declared_indexes
from pgonly_django.monitoring.findings import Level
from pgonly_django.tables import TABLES
from tests.monitoring.doctor.conftest import at, found
from tests.sql import value


@pytest.mark.django_db
def test_the_models_declare_every_index_that_the_database_has():
    wanted = {name for _, name, _ in declared_indexes("default")}
    there = value("SELECT array_agg(indexname::text) FROM pg_indexes WHERE indexname LIKE 'pgonly%'")
    assert {name for name in there if not name.endswith("_like")} - wanted == set()
    assert found("indexes") == {}


@pytest.mark.parametrize(
    "name", ["pgonly_job_ready", "pgonly_job_unique", "pgonly_cache_prune", "pgonly_cache_durable_tags"]
)
def test_a_dropped_index_is_made_again_by_the_sql_of_the_advice(sql, name):
    ((before,),) = sql(f"SELECT pg_get_indexdef('{at(name)}'::regclass)")
    sql(f"DROP INDEX {at(name)}")
    findings = found("indexes")
    assert list(findings) == ["D041"]
    assert findings["D041"].level == Level.ERROR
    assert name in findings["D041"].fact
    sql(findings["D041"].advice)
    assert found("indexes") == {}
    assert sql(f"SELECT pg_get_indexdef('{at(name)}'::regclass)") == [(before,)]


def test_a_primary_key_that_was_dropped(sql):
    sql("ALTER TABLE pgonly_cache_usage DROP CONSTRAINT pgonly_cache_usage_pkey")
    finding = found("indexes")["D041"]
    assert "pgonly_cache_usage_pkey" in finding.fact
    sql(finding.advice)
    assert found("indexes") == {}


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
    assert not named & {"indexes", "queues", "workers"}
    assert {"server", "listen", "vacuum", "settings"} <= named
    assert "D003" in server_to_ruin.found("queues")  # where D052 is not asked for


def test_what_a_pending_migration_would_make_is_not_said_twice(recorder, sql):
    recorder.record_unapplied("pgonly_django", "0001_initial")
    sql(
        f"ALTER INDEX {at('pgonly_job_cancelled')} RENAME TO elsewhere",
        "ALTER TABLE pgonly_tick RENAME TO pgonly_gone",
    )
    try:
        assert found("tables")["D052"].data["pending"] == ["0001_initial"]
        assert not {"D041", "D051"} & set(found("indexes", "tables"))
    finally:
        recorder.record_applied("pgonly_django", "0001_initial")
        sql(
            f"ALTER INDEX {at('elsewhere')} RENAME TO pgonly_job_cancelled",
            f"ALTER TABLE {at('pgonly_gone')} RENAME TO pgonly_tick",
        )


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
    place = schema() or sql("SELECT current_schema()")[0][0]
    sql("CREATE SCHEMA elsewhere", *(f'ALTER TABLE "{place}".{name} SET SCHEMA elsewhere' for name in TABLES))
    try:
        findings = found("tables")
        assert list(findings) == ["D053"]
        assert "pgonly_job" in findings["D053"].fact
    finally:
        back = (f'ALTER TABLE elsewhere.{name} SET SCHEMA "{place}"' for name in TABLES)
        sql(*back, "DROP SCHEMA elsewhere")
