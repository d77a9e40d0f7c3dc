"""What the site needs, against the thresholds at which its cache should move to Redis."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from pgonly_django.models import CostEntry, Session
from pgonly_django.monitoring.doctor import growth, reading
from pgonly_django.monitoring.findings import Level
from pgonly_django.tables import qualified
from tests.monitoring.doctor.conftest import found

CACHE = {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "growth"}


@pytest.fixture
def site(settings, monkeypatch, db):
    monkeypatch.setattr(growth, "WATCH_SECONDS", 0.05)
    settings.CACHES = {"default": CACHE}
    settings.SESSION_ENGINE = "pgonly_django.sessions"


def seen(users: int, ago: timedelta) -> None:
    at = timezone.now() - ago
    Session.objects.bulk_create(
        Session(
            key_hash=f"{ago}{number}".encode().ljust(32, b"-"),
            data={},
            user_id=str(number // 2),  # two devices each
            last_seen_at=at,
            expires_at=timezone.now() + timedelta(days=1),
        )
        for number in range(2 * users)
    )


def test_a_small_site_may_stay_and_sees_its_figures(site):
    seen(3, timedelta(hours=1))
    seen(5, timedelta(days=2))
    (finding,) = found("growth").values()
    assert (finding.id, finding.level) == ("D140", Level.INFO)
    assert "3 users in the last 24 hours (limit 50,000)" in finding.fact
    assert finding.data["users_a_day"] == 3
    assert 0.01 < finding.data["cache_p99_ms.default"] < 10_000  # neither in seconds nor in microseconds
    assert finding.data["transactions_a_second"] >= 0


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("USERS_A_DAY", "4 users in the last 24 hours (limit 3)"),
        ("P99_MILLISECONDS", "p99 of cache 'default'"),
        ("MODEL_USD", "calls to models $12.50 in 30 days"),
    ],
)
def test_each_threshold_is_named_when_it_is_passed(site, monkeypatch, limit, words):
    seen(4, timedelta(hours=1))
    CostEntry.objects.create(usd="12.5")
    monkeypatch.setattr(growth, limit, {"P99_MILLISECONDS": 0.000001}.get(limit, 3))
    finding = found("growth")["D141"]
    assert finding.level == Level.WARNING
    assert words in finding.fact
    assert finding.fact.count("(limit") == 1


@pytest.mark.slow
def test_transactions_of_all_clients_are_counted(site, monkeypatch):
    """By the statistics of the server, to which a session adds its own at most once a second."""
    monkeypatch.setattr(growth, "WATCH_SECONDS", 3.0)
    with busy_client("SELECT 1"):
        rate = growth.transactions_a_second("default")
    assert rate.value > 50


@contextmanager
def busy_client(statement: str) -> Iterator[None]:
    """Sends it all the time, in autocommit."""
    is_over = threading.Event()
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as raw:

        def send() -> None:
            while not is_over.is_set():
                raw.execute(statement)

        client = threading.Thread(target=send)
        client.start()
        try:
            yield
        finally:
            is_over.set()
            client.join()


def test_a_site_without_sessions_or_caches_of_ours_is_told_nothing_of_them(settings, site):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    finding = found("growth")["D140"]
    assert finding.data["users_a_day"] is None
    assert "users a day unknown" in finding.fact
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    assert found("growth") == {}


def test_a_cache_that_does_not_answer_takes_the_other_figures_not_away(site):
    seen(3, timedelta(hours=1))
    with connection.cursor() as cursor:
        cursor.execute(qualified("ALTER TABLE pgonly_cache RENAME TO elsewhere"))
    finding = found("growth")["D140"]
    assert finding.data["cache_p99_ms.default"] is None
    assert "cache 'default' does not answer" in finding.fact
    assert finding.data["users_a_day"] == 3


def test_what_takes_too_long_is_left_out(site, monkeypatch):
    monkeypatch.setattr(growth, "USERS", "SELECT count(pg_sleep(10)) FROM generate_series(1, 9)")
    monkeypatch.setattr(reading, "TIME_LIMIT", timedelta(milliseconds=100))
    finding = found("growth")["D140"]
    assert finding.data["users_a_day"] is None
    assert "users a day not counted in time" in finding.fact
    assert finding.data["model_usd_30_days"] == 0


def test_sessions_and_costs_are_read_where_routers_keep_them(own_server, site):
    """The server of another alias has the tables too, and nothing in them."""
    seen(3, timedelta(hours=1))
    CostEntry.objects.create(usd=12, task="t", at=timezone.now(), queue="q")
    finding = own_server.found("growth")["D140"]
    assert finding.data["users_a_day"] == 3
    assert finding.data["model_usd_30_days"] == 12
