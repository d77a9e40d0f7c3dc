"""Indexes that are missing, invalid, others than declared, or bloated."""

from __future__ import annotations

import pytest
from django.db import connection

from pgonly_django.monitoring.doctor.declared import declared
from pgonly_django.monitoring.doctor.examination import examine
from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import at, found

DEFINITION = f"SELECT pg_get_indexdef('{at('pgonly_job_ready')}'::regclass)"


@pytest.mark.django_db
def test_the_migrations_declare_every_index_that_the_database_has():
    wanted = {index.name: index for index in declared("default").indexes}
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'pgonly%'")
        assert {name for (name,) in cursor.fetchall() if not name.endswith("_like")} - set(wanted) == set()
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


def test_an_index_of_the_right_name_and_other_columns(sql):
    ((definition,),) = sql(DEFINITION)
    sql(f"DROP INDEX {at('pgonly_job_ready')}", "CREATE INDEX pgonly_job_ready ON pgonly_job (queue)")
    finding = found("indexes")["D042"]
    assert "it has 1 column." in finding.fact
    for statement in finding.advice.rstrip(";").split("; "):
        sql(statement)
    assert found("indexes") == {}
    assert sql(DEFINITION) == [(definition,)]


def invalid(name):
    return f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{at(name)}'::regclass"


def test_an_invalid_index_is_mended_by_the_sql_of_the_advice(sql):
    sql(invalid("pgonly_job_failed"))
    finding = found("indexes")["D043"]
    assert finding.level == Level.ERROR
    sql(finding.advice)
    assert found("indexes") == {}


def test_the_build_of_an_index_in_another_database_hides_no_invalid_one(sql):
    """In a copy of the same template, where the index has the same OID."""
    sql(
        invalid("pgonly_job_failed"),
        "CREATE TEMP VIEW pg_stat_progress_create_index AS "
        "SELECT 'another'::name AS datname, 'pgonly_job_failed'::regclass::oid AS index_relid",
    )
    finding = found("indexes")["D043"]
    sql("DROP VIEW pg_temp.pg_stat_progress_create_index", finding.advice)
    assert found("indexes") == {}


def test_a_left_over_of_an_interrupted_build_is_dropped(sql):
    sql("CREATE INDEX pgonly_job_ready_ccnew ON pgonly_job (queue)", invalid("pgonly_job_ready_ccnew"))
    finding = found("indexes")["D043"]
    assert finding.level == Level.WARNING
    sql(finding.advice.rpartition(": ")[2])
    assert found("indexes") == {}


@pytest.mark.slow
def test_a_bloated_index(sql):
    """Keys as long as they may be: 40 MB of them are soon made."""
    sql(
        "INSERT INTO pgonly_cache (key, codec) "
        "SELECT lpad(n::text, 250, md5(n::text)), 0 FROM generate_series(1, 130000) AS n",
        "ANALYZE pgonly_cache",
    )
    assert found("indexes") == {}
    sql(
        "DELETE FROM pgonly_cache WHERE key < (SELECT max(key) FROM pgonly_cache)",
        "VACUUM ANALYZE pgonly_cache",
    )
    bloated = {each.data["index"]: each for each in examine("default", only=["indexes"]).findings}
    finding = bloated["pgonly_cache_pkey"]
    assert (finding.id, finding.level) == ("D044", Level.WARNING)
    assert "its 1 entry need" in finding.fact
    for each in bloated.values():
        sql(each.advice)
    assert found("indexes") == {}
