"""A NOTIFY that arrives, and those that a pooler swallows."""

from __future__ import annotations

import json

import pytest
from django.db import connection, connections, transaction

from pgonly_django.monitoring.doctor.findings import Level
from tests.aliases import alias
from tests.monitoring.doctor.conftest import found

pytestmark = pytest.mark.django_db(transaction=True)


def through(port, name):
    test = {**connections.settings["default"]["TEST"], "NAME": connection.settings_dict["NAME"]}
    return alias(name, HOST="127.0.0.1", PORT=str(port), NAME=connection.settings_dict["NAME"], TEST=test)


def test_a_notify_arrives_here():
    assert found("listen") == {}


@pytest.mark.slow
def test_a_pooler_in_transaction_mode_swallows_listen(pooler, any_database, monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "900")
    with through(pooler, "pooled"):
        findings = found("listen", "server", "connections", database="pooled")
        assert "D082" not in findings  # however many processes there are
        assert findings["D061"].level == Level.WARNING
        assert "nothing came within 2 s" in findings["D061"].fact
        assert 'PGONLY["LISTEN_DATABASE"]' in findings["D061"].advice
        assert findings["D018"].level == Level.INFO


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


def test_inside_a_transaction_of_the_caller_it_is_tested_beside_it():
    with transaction.atomic():
        assert found("listen") == {}


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
