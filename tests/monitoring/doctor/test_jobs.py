"""Transactions that have been open for long, a NOTIFY that arrives, and those that a pooler swallows."""

from __future__ import annotations

import json

import psycopg
import pytest
from django.conf import settings
from django.db import connection, connections, transaction
from django.test import TestCase, override_settings

from pgonly_django.monitoring.conditions import OLD_SNAPSHOT
from pgonly_django.monitoring.findings import Level
from tests.aliases import alias
from tests.jobs.transactions import stand_still
from tests.monitoring.doctor.conftest import found
from tests.sql import value
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


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


def test_while_our_tables_are_locked_transactions_are_named_all_the_same(at_once, other):
    other.execute("BEGIN")
    other.execute("LOCK TABLE pgonly_job, pgonly_worker IN ACCESS EXCLUSIVE MODE")
    assert old_transaction().data["pid"] == other.info.backend_pid
    locked = found("queues")
    assert list(locked) == ["D006"]
    assert locked["D006"].level == Level.WARNING
    assert "docs/how-to/database_health.md#who-waits-for-a-lock" in locked["D006"].advice


def through(port, name):
    test = {**connections.settings["default"]["TEST"], "NAME": connection.settings_dict["NAME"]}
    return alias(name, HOST="127.0.0.1", PORT=str(port), NAME=connection.settings_dict["NAME"], TEST=test)


def test_a_notify_arrives_here_also_beside_a_transaction_of_the_caller():
    assert found("listen") == {}
    with transaction.atomic():
        assert found("listen") == {}


@pytest.mark.slow
def test_a_pooler_in_transaction_mode_swallows_listen(pooler, any_database):
    with through(pooler, "pooled"):
        findings = found("listen", database="pooled")
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


class TestsOfAProject(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.enterClassContext(alias("direct"))
        super().setUpClass()

    def test_a_connection_that_django_forbids_to_the_test_is_said(self):
        with override_settings(PGONLY={**settings.PGONLY, "LISTEN_DATABASE": "direct"}):
            finding = found("listen")["D004"]
        self.assertIn("Database queries to 'direct' are not allowed in this test.", finding.fact)
