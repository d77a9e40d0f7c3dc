"""What was computed while the database was away is returned, stored later, and keeps nobody waiting."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import psycopg
import pytest
from django.db import connections

from pgonly_django.cache.single_flight import SingleFlight
from pgonly_django.database.operation import run
from pgonly_django.exceptions import CacheUnavailableError, UnansweredError
from pgonly_django.models import CacheEntry, DurableCacheEntry
from pgonly_django.models.cache_entry import CacheLock
from tests.cache.failure.conftest import with_options
from tests.outages import frozen
from tests.sql import sql
from tests.waiting import beside, wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_get_or_set_gives_the_value_without_a_database(aside, server):
    server.stop()
    assert aside.get_or_set("key", lambda: 42) == 42


@pytest.mark.parametrize("on_error", [None, "ignore", "raise"])
@pytest.mark.parametrize(("end", "expected"), [(lambda: "paid for", "paid for"), (lambda: 1 / 0, "next")])
def test_what_was_computed_while_the_database_was_away_is_returned_and_stored_when_it_is_back(
    aside, server, end, expected, on_error
):
    """And what failed meanwhile is free to be computed: nobody waits for the end of lock_timeout."""
    cache, key = with_options(DURABLE=True, ON_ERROR=on_error), f"{expected}, {on_error}"

    def compute():
        server.stop()
        return end()

    with contextlib.suppress(ZeroDivisionError):
        assert cache.get_or_set(key, compute, lock_timeout=600) == "paid for"
    server.start()
    connections["aside"].close()
    wait_for(lambda: not DurableCacheEntry.objects.using("aside").filter(claim__isnull=False).exists())
    assert cache.get_or_set(key, lambda: "next", lock_timeout=600) == expected


def test_what_postgresql_refuses_when_it_is_back_keeps_nobody_waiting(aside, server):
    def compute():
        sql(
            "ALTER TABLE pgonly_cache ADD CONSTRAINT tests_none CHECK (value IS NULL) NOT VALID",
            using="aside",
        )
        connections["aside"].close()
        server.stop()
        return "paid for"

    assert aside.get_or_set("refused later", compute, lock_timeout=600) == "paid for"
    server.start()
    try:
        claimed = CacheEntry.objects.using("aside").filter(claim__isnull=False)
        wait_for(lambda: not claimed.exists(), what="the claim's end")
    finally:
        sql("ALTER TABLE pgonly_cache DROP CONSTRAINT tests_none", using="aside")


def test_of_those_who_wait_none_pays_a_second_time_where_errors_are_raised(aside, server):
    cache, computing, go_on = with_options(ON_ERROR="raise"), threading.Event(), threading.Event()

    def compute():
        computing.set()
        assert go_on.wait(30)
        return "paid for"

    with beside(lambda: cache.get_or_set("paid once", compute)) as paid:
        assert computing.wait(30)
        with beside(lambda: cache.get_or_set("paid once", lambda: "paid again", lock_timeout=600)) as other:
            wait_for(lambda: listening(server), what="the other to wait")
            server.stop("immediate")
        assert isinstance(other[0], CacheUnavailableError)
        assert not paid
        go_on.set()
    assert paid == ["paid for"]


def listening(server):
    with psycopg.connect(server.url()) as connection:
        return connection.execute("SELECT pid FROM pg_stat_activity WHERE query ~ '^LISTEN'").fetchall()


def test_an_async_caller_gets_what_it_has_paid_for(aside, server):
    cache = with_options(ON_ERROR="raise")

    async def compute():
        await asyncio.to_thread(server.stop)
        return "paid for"

    assert asyncio.run(cache.aget_or_set("async", compute)) == "paid for"


def test_a_claim_that_a_frozen_server_reads_much_later_keeps_nobody_waiting(aside, server, monkeypatch):
    """Later than a claim is looked for after PostgreSQL has answered."""
    monkeypatch.setattr("pgonly_django.database.background.UNCONFIRMED_SECONDS", 1.0)
    cache = with_options(TIMEOUT_SECONDS=0.5)
    key = cache.stored_key("frozen", None)
    operation = SingleFlight(cache.store, key, lambda: 1, 60, 0, 600, (), strict=True)._claim()
    cache.get_or_set("so that the statement is prepared", 1)
    with frozen(server), pytest.raises(UnansweredError):
        try:
            run(operation)
        finally:
            time.sleep(3)
    entries = CacheEntry.objects.using("aside").filter(key=key.decode())
    wait_for(entries.filter(claim=None).exists, what="the claim to come and to go")


def test_a_lock_that_a_frozen_server_takes_after_its_lease_is_given_back(aside, server):
    cache = with_options(TIMEOUT_SECONDS=0.5)
    with cache.lock("so that the statement is prepared"):
        pass
    with frozen(server), pytest.raises(UnansweredError):
        try:
            cache.lock("frozen", timeout=1.0).acquire(blocking=False)
        finally:
            time.sleep(3)
    given_back = CacheLock.objects.using("aside").filter(name__endswith="frozen", refused__isnull=False)
    wait_for(given_back.exists, what="it to be given back")
