"""Real standbys: the files of a server, which recovers for ever."""

from __future__ import annotations

import subprocess
import time

import psycopg
import pytest
from django.core.management import call_command

from pgonly_django.embedded import Server, _binaries, unprivileged
from pgonly_django.monitoring.doctor import vacuum
from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import OPTIONS, as_alias, found
from tests.waiting import wait_for


class ToStandby:
    """A router that sends reads of our cache and our jobs to the alias "standby"."""

    def db_for_read(self, model, **_):
        return "standby" if model._meta.app_label == "pgonly_django" else None


@pytest.fixture
def standby(own_server):
    """Of the own server, which it follows; as the alias "standby"."""
    primary = own_server.server
    data = primary.data.parent / f"standby{time.monotonic_ns()}"
    data.mkdir(mode=0o700)
    Server(data)._hand_over(data)
    copy = [str(_binaries() / "pg_basebackup"), "-D", str(data), "-R", "-c", "fast", "-d", primary.url()]
    subprocess.run(copy, check=True, cwd="/", **unprivileged())
    (data / ".s.PGSQL.5432.lock").unlink(missing_ok=True)  # of the primary's socket, which is in its folder
    standby = Server(data, options=(*OPTIONS, "hot_standby_feedback=on", "wal_receiver_status_interval=1"))
    standby.start()
    with as_alias(standby, "standby"):
        yield standby
    standby.stop("immediate")


@pytest.mark.slow
def test_an_alias_that_leads_to_a_standby(standby, settings):
    settings.CACHES = {
        **settings.CACHES,
        "pages": {"BACKEND": "pgonly_django.cache.PostgresCache", "OPTIONS": {"DATABASE": "standby"}},
    }
    findings = found(database="standby")
    assert findings["D091"].level == Level.ERROR
    assert "The caches pages are here" in findings["D091"].fact
    assert "pgonly_cache" in findings["D091"].data["unlogged_tables"]
    assert "D061" not in findings
    call_command("pgonly_doctor", database="standby", fail_on="never")


def test_reads_that_a_router_sends_to_a_standby(standby, own_server, settings):
    settings.DATABASE_ROUTERS = [ToStandby()]
    finding = own_server.found("standby")["D092"]
    assert finding.level == Level.ERROR
    assert finding.data["alias"] == "standby"
    assert "pgonly_cache" in finding.data["unlogged_tables"]
    assert "pgonly_job" in finding.data["tables"]


def test_a_standby_has_nothing_of_the_unlogged_tables(standby, own_server):
    wait_for(lambda: "D093" in own_server.found("standby"))
    finding = own_server.found("standby")["D093"]
    assert finding.level == Level.INFO
    assert finding.data["standbys"] == 1
    assert "pgonly_cache" in finding.data["tables"]


def test_a_query_on_a_standby_holds_vacuum_back_here(standby, own_server, monkeypatch):
    monkeypatch.setattr(vacuum, "FEEDBACK_TRANSACTIONS", 10)
    with psycopg.connect(standby.url()) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM pgonly_job")
        wait_for(lambda: own_server.execute("SELECT backend_xmin FROM pg_stat_replication") != [(None,)])
        own_server.execute(*["SELECT pg_current_xact_id()"] * 12)
        finding = own_server.found("vacuum")["D024"]
    assert finding.level == Level.WARNING
    assert finding.data["transactions"] >= 10
