"""Servers that are not PostgreSQL, as they describe themselves. None of them can be started here, so functions and
views stand before those of the catalog; what each says was taken from its documentation."""

from __future__ import annotations

import pytest
from django.core import checks
from django.core.management import CommandError, call_command
from django.db import connections

from pgonly_django.conf import schema
from pgonly_django.database.server_kind import check_server, kind_of
from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import as_alias, at, found

COCKROACH = "CockroachDB CCL v25.4.14 (x86_64-pc-linux-gnu, built 2026/05/01 00:00:00, go1.25)"
YUGABYTE = "PostgreSQL 15.12-YB-2025.2.3.0-b1 on x86_64-pc-linux-gnu"
CACHE = {"BACKEND": "pgonly_django.cache.PostgresCache", "OPTIONS": {"DATABASE": "fake"}}


@pytest.fixture
def pretend(own_server):
    """`pretend(statement, ...)`: makes these things in a schema that comes before pg_catalog for the alias "fake"."""
    own_server.execute("DROP SCHEMA IF EXISTS fake CASCADE", "CREATE SCHEMA fake")
    options = {"options": "-c search_path=fake,pg_catalog,public"}
    with as_alias(own_server.server, "fake", OPTIONS=options):

        def make(*statements, **settings):
            in_fake = "SET search_path = fake, pg_catalog, public"
            own_server.execute("; ".join([in_fake, *statements]))
            if settings:
                chosen = "".join(f" -c {name.replace('__', '.')}={value}" for name, value in settings.items())
                connections["fake"].close()
                connections["fake"].settings_dict["OPTIONS"]["options"] = options["options"] + chosen

        yield make
    own_server.execute("DROP SCHEMA fake CASCADE")


def version(text):
    return f"CREATE FUNCTION version() RETURNS text LANGUAGE sql AS $$ SELECT '{text}'::text $$"


def test_postgresql_is_no_finding(own_server):
    assert own_server.found("server") == {}
    with connections["own"].cursor() as cursor:
        assert kind_of(cursor).label.startswith("PostgreSQL 1")


def test_cockroachdb_is_refused_by_name_and_nothing_else_is_looked_at(pretend):
    pretend(version(COCKROACH))
    findings = found(database="fake")
    assert list(findings) == ["D010"]
    assert findings["D010"].level == Level.ERROR
    assert "DATABASES['fake'] is CockroachDB" in findings["D010"].fact


def test_the_system_check_refuses_cockroachdb_before_migrate(pretend):
    assert check_server(databases=["fake", "default"]) == []
    pretend(version(COCKROACH))
    (error,) = check_server(databases=["fake", "default"])
    assert error.id == "pgonly_django.E060"
    assert error.level == checks.ERROR
    with pytest.raises(CommandError, match="is CockroachDB, on which pgonly_django does not work"):
        call_command("migrate", "pgonly_django", database="fake", verbosity=0, skip_checks=False)


def test_cockroachdb_that_django_takes_for_an_old_postgresql(pretend, monkeypatch):
    """Those of last year say that they are PostgreSQL 13, which Django refuses without saying whose it is."""
    pretend(version(COCKROACH))
    wrapper = connections["fake"]
    wrapper.close()
    monkeypatch.setattr(wrapper.features, "minimum_database_version", (99,))
    monkeypatch.setattr(
        wrapper.settings_dict.setdefault("TEST", {}), "get", None, raising=False
    ) if False else None
    assert [each.id for each in check_server(databases=["fake"])] == ["pgonly_django.E060"]
    assert list(found(database="fake")) == ["D010"]


def test_aurora(pretend):
    pretend("CREATE FUNCTION aurora_version() RETURNS text LANGUAGE sql AS $$ SELECT '16.4.0'::text $$")
    findings = found("server", database="fake")
    assert list(findings) == ["D011"]
    assert findings["D011"].level == Level.INFO
    assert "--sleep-after" in findings["D011"].advice


def test_neon_loses_what_is_in_unlogged_tables(pretend, settings):
    pretend(neon__timeline_id="0123456789abcdef")
    assert list(found("server", database="fake")) == ["D012"]
    settings.CACHES = {**settings.CACHES, "pages": CACHE}
    finding = found("server", database="fake")["D013"]
    assert finding.level == Level.WARNING
    assert "the caches pages are lost" in finding.fact
    assert 'CACHES[\'pages\']["OPTIONS"]["DURABLE"] = True' in finding.advice
    durable = {**CACHE, "OPTIONS": {**CACHE["OPTIONS"], "DURABLE": True}}
    settings.CACHES = {**settings.CACHES, "pages": durable}
    assert list(found("server", database="fake")) == ["D012"]


def test_supabase(pretend):
    role = """jsonb_populate_record(NULL::pg_catalog.pg_roles, '{"rolname": "supabase_admin"}')"""
    pretend(f"CREATE VIEW pg_roles AS SELECT * FROM pg_catalog.pg_roles UNION ALL SELECT ({role}).*")
    finding = found("server", database="fake")["D014"]
    assert finding.level == Level.INFO
    assert "6543" in finding.fact


@pytest.mark.parametrize(("flag", "level"), [(None, Level.WARNING), ("on", Level.INFO)])
def test_yugabytedb(pretend, own_server, flag, level):
    pretend(version(YUGABYTE))
    if flag:
        pretend(
            "CREATE FUNCTION current_setting(name text, missing boolean) RETURNS text LANGUAGE sql AS $$ SELECT CASE "
            "WHEN name = 'yb_enable_listen_notify' THEN 'on' ELSE pg_catalog.current_setting(name, missing) END $$"
        )
    finding = found("server", database="fake")["D015"]
    assert finding.level == level
    assert "ysql_yb_enable_listen_notify=true" in finding.advice


def test_citus_with_a_table_of_ours_distributed(pretend):
    pretend(
        "CREATE VIEW pg_extension AS SELECT 'citus'::name AS extname",
        "CREATE TABLE pg_dist_partition (logicalrelid regclass)",
    )
    assert list(found("server", database="fake")) == ["D016"]
    pretend(f"INSERT INTO pg_dist_partition VALUES ('{at('pgonly_job')}'::regclass)")
    finding = found("server", database="fake")["D017"]
    assert finding.level == Level.ERROR
    assert finding.advice == f"SELECT undistribute_table('{schema() or 'public'}.pgonly_job');"
