"""Pools against what the server allows, a NOTIFY that arrives, and those that a pooler swallows."""

from __future__ import annotations

import json
from datetime import timedelta

import psycopg
import pytest
from django.db import connection, connections, transaction

from pgonly_django.monitoring.findings import Level
from tests.aliases import alias
from tests.monitoring.doctor.conftest import as_alias, found
from tests.queue.rows import make_worker

pytestmark = pytest.mark.django_db(transaction=True)
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
def test_workers_that_together_may_open_more_unless_they_are_silent():
    make_worker(threads=300, silent_for=timedelta(hours=2))
    assert found("connections") == {}
    for _ in range(3):
        make_worker(threads=100)
    finding = found("connections")["D082"]
    assert finding.level == Level.WARNING
    assert finding.data["workers"] == 3
    assert finding.data["of_workers"] >= 300


@pytest.mark.django_db
def test_processes_of_the_site_are_counted_as_the_platform_says(monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "400")
    assert found("connections")["D082"].data["web_processes"] == 400
    monkeypatch.setenv("WEB_CONCURRENCY", "many")
    assert found("connections") == {}


def test_the_limit_of_a_role_and_of_the_database(own_server):
    own_server.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 5", "GRANT pg_read_all_data TO few")
    try:
        with as_alias(
            own_server.server, "few", USER="few", OPTIONS={"pool": {"min_size": 1, "max_size": 20}}
        ):
            finding = found("connections", database="few")["D082"]
            assert "CONNECTION LIMIT of the role few" in finding.fact
            own_server.execute(
                "ALTER ROLE few CONNECTION LIMIT -1", "ALTER DATABASE postgres CONNECTION LIMIT 6"
            )
            findings = found("connections", database="few")
            assert "CONNECTION LIMIT of the database postgres" in findings["D082"].fact
            connections["few"].close()
            connections["few"].close_pool()
    finally:
        own_server.execute(
            "ALTER DATABASE postgres CONNECTION LIMIT -1", "DROP OWNED BY few", "DROP ROLE few"
        )


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


def through(port, name):
    test = {**connections.settings["default"]["TEST"], "NAME": connection.settings_dict["NAME"]}
    return alias(name, HOST="127.0.0.1", PORT=str(port), NAME=connection.settings_dict["NAME"], TEST=test)


def test_a_notify_arrives_here_also_beside_a_transaction_of_the_caller():
    assert found("listen") == {}
    with transaction.atomic():
        assert found("listen") == {}


@pytest.mark.slow
def test_a_pooler_in_transaction_mode_swallows_listen(pooler, any_database, monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "900")
    with through(pooler, "pooled"):
        findings = found("listen", "connections", database="pooled")
        assert "D082" not in findings  # however many processes there are
        assert findings["D061"].level == Level.WARNING
        assert "nothing came within 2 s" in findings["D061"].fact
        assert 'PGONLY["LISTEN_DATABASE"]' in findings["D061"].advice


def test_a_listen_database_past_the_pooler_hears_it(pooler, any_database, settings):
    with through(pooler, "pooled"):
        settings.PGONLY = {**settings.PGONLY, "LISTEN_DATABASE": "default"}
        connections.settings["default"]["NAME"] = connection.settings_dict["NAME"]
        assert "D061" not in found("listen", database="pooled")


def test_a_listen_database_that_cannot_be_reached(any_database, settings):
    name = connection.settings_dict["NAME"]
    connections.settings["default"]["NAME"] = name
    with alias("away", HOST="127.0.0.1", PORT="9", NAME=name):
        settings.PGONLY = {**settings.PGONLY, "LISTEN_DATABASE": "away"}
        finding = found("listen")["D063"]
    assert finding.level == Level.ERROR
    assert "manage.py dbshell --database away" in finding.advice
    json.dumps(finding.as_dict())


def test_a_server_that_refuses_notify(own_server):
    """As YugabyteDB does without its flag: a function before that of the server."""
    own_server.execute(
        "CREATE SCHEMA IF NOT EXISTS fake",
        "CREATE OR REPLACE FUNCTION fake.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'LISTEN/NOTIFY is not supported'; END $$",
        "ALTER ROLE postgres SET search_path = fake, pg_catalog, public",
    )
    finding = own_server.found("listen")["D061"]
    assert "LISTEN/NOTIFY is not supported" in finding.fact
