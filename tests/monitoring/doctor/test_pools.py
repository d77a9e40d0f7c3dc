"""Pools against what the server allows."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from django.db import connections

from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import as_alias, found
from tests.queue.rows import make_worker

CACHE = {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "doctor"}


@pytest.mark.django_db
def test_a_pool_of_one_process_that_is_larger_than_the_server(settings):
    assert found("connections") == {}
    settings.CACHES = {**settings.CACHES, "large": {**CACHE, "OPTIONS": {"POOL_SIZE": 5000}}}
    finding = found("connections")["D082"]
    assert finding.level == Level.ERROR
    assert finding.data["of_a_web_process"] > 5000
    assert finding.data["wanted"] > finding.data["allowed"]
    assert 'OPTIONS["POOL_SIZE"]' in finding.advice


@pytest.mark.django_db
def test_workers_that_together_may_open_more(settings):
    for _ in range(3):
        make_worker(threads=100)
    finding = found("connections")["D082"]
    assert finding.level == Level.WARNING
    assert finding.data["workers"] == 3
    assert finding.data["of_workers"] >= 300


@pytest.mark.django_db
def test_a_worker_that_is_silent_or_asleep_has_no_connections():
    make_worker(threads=300, silent_for=timedelta(hours=2))
    assert found("connections") == {}


@pytest.mark.django_db
def test_processes_of_the_site_are_counted_as_the_platform_says(monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "400")
    assert found("connections")["D082"].data["web_processes"] == 400
    monkeypatch.setenv("WEB_CONCURRENCY", "many")
    assert found("connections") == {}


def test_the_limit_of_a_role_and_of_the_database(own_server):
    own_server.execute("DROP OWNED BY few CASCADE") if own_server.execute(
        "SELECT 1 FROM pg_roles WHERE rolname = 'few'"
    ) else None
    own_server.execute(
        "DROP ROLE IF EXISTS few", "CREATE ROLE few LOGIN CONNECTION LIMIT 5", "GRANT pg_read_all_data TO few"
    )
    with as_alias(own_server.server, "few", USER="few", OPTIONS={"pool": {"min_size": 1, "max_size": 20}}):
        finding = found("connections", database="few")["D082"]
        assert "CONNECTION LIMIT of the role few" in finding.fact
        own_server.execute("ALTER ROLE few CONNECTION LIMIT -1", "ALTER DATABASE postgres CONNECTION LIMIT 6")
        try:
            findings = found("connections", database="few")
            assert "CONNECTION LIMIT of the database postgres" in findings["D082"].fact
        finally:
            connections["few"].close()
            connections["few"].close_pool()
            own_server.execute("ALTER DATABASE postgres CONNECTION LIMIT -1")
    own_server.execute("DROP ROLE few")


@pytest.mark.slow
def test_connections_that_are_used_up_now(own_server):

    held = [psycopg.connect(own_server.server.url()) for _ in range(34)]
    try:
        finding = own_server.found("connections")["D081"]
        assert finding.level in (Level.ERROR, Level.WARNING)
        assert finding.data["allowed"] == 37
        assert finding.data["used"] >= 34
    finally:
        for each in held:
            each.close()
