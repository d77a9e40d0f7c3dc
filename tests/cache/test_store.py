from __future__ import annotations

import asyncio
import os
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.contrib.contenttypes.models import ContentType
from django.db import connections

from pgonly_django.cache import PostgresCache
from pgonly_django.exceptions import CacheError, ValueTooLargeError
from pgonly_django.models import CacheEntry, DurableCacheEntry
from tests.cache.conftest import expire_by
from tests.sql import sql


def test_integers_are_stored_as_integers_and_booleans_stay_booleans(cache):
    cache.set_many({"integer": 7, "boolean": True, "large": 2**70})
    assert cache.get_many(["integer", "boolean", "large"]) == {"integer": 7, "boolean": True, "large": 2**70}
    assert cache.get("boolean") is True
    assert CacheEntry.objects.get(key__endswith=":integer").number == 7


@pytest.mark.parametrize(
    ("given", "milliseconds"), [(0.5, 500), (timedelta(minutes=1), 60_000), ("90", 90_000)]
)
def test_the_default_timeout_may_be_a_fraction_or_a_timedelta(make_cache, given, milliseconds):
    cache = make_cache(TIMEOUT=given)
    cache.set("key", 1)
    assert milliseconds - 400 < cache.pttl("key") <= milliseconds


def test_an_expired_entry_is_nowhere(cache):
    cache.set("key", 5)
    expire_by(1)
    assert cache.get("key") is None
    assert not cache.has_key("key")
    assert cache.get_many(["key"]) == {}
    assert not cache.touch("key")
    assert cache.ttl("key") == 0
    assert cache.keys("*") == []
    with pytest.raises(ValueError, match="not found"):
        cache.incr("key")
    assert not cache.delete("key")
    cache.set("key", 5)
    expire_by(1)
    assert cache.add("key", 6)


def test_clear_leaves_other_caches_alone(make_cache):
    one, other, longer = make_cache("one"), make_cache("other"), make_cache("one:more")
    for each in (one, other, longer):
        each.set_many({str(number): number for number in range(2500)})
    one.clear()
    assert one.get("1") is None
    assert other.get("1") == longer.get("1") == 1
    assert CacheEntry.objects.count() == 5000


def test_the_durable_option_chooses_the_logged_table(make_cache):
    make_cache(DURABLE=True).set("key", 1)
    assert DurableCacheEntry.objects.count() == 1
    assert CacheEntry.objects.count() == 0
    names = "'pgonly_cache', 'pgonly_cache_durable'"  # whole ones, which no schema comes before
    kinds = sql(f"SELECT relname, relpersistence FROM pg_class WHERE relname IN ({names})")
    assert dict(kinds) == {"pgonly_cache": "u", "pgonly_cache_durable": "p"}


@pytest.mark.slow
def test_a_value_of_many_megabytes_comes_back_whole(cache):
    value = os.urandom(40_000_000)
    cache.set("large", value)
    assert cache.get("large") == value


def test_a_value_beyond_what_postgresql_holds_is_refused_with_its_size(make_cache, monkeypatch):
    monkeypatch.setattr("pgonly_django.cache.store.FIELD_LIMIT", 1000)
    cache = make_cache()
    with pytest.raises(CacheError, match="at most 1,000 bytes after serializing, got 5,0"):
        cache.set("large", b"x" * 5000)


def test_many_tasks_of_several_loops_share_the_connections(cache):
    async def work(number):
        await cache.aset(f"key:{number}", number)
        return await cache.aget(f"key:{number}")

    async def crowd():
        return await asyncio.gather(*(work(number) for number in range(100)))

    assert asyncio.run(crowd()) == asyncio.run(crowd()) == list(range(100))


def test_a_cancelled_call_does_not_spoil_the_next(cache):
    async def cancel_many():
        for _ in range(30):
            task = asyncio.create_task(cache.aget("key"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return await asyncio.gather(*(cache.aget("key") for _ in range(20)))

    cache.set("key", "value")
    assert asyncio.run(cancel_many()) == ["value"] * 20


def test_a_key_function_of_ones_own_is_used(make_cache):
    cache = make_cache(KEY_FUNCTION=lambda key, prefix, version: f"{prefix}/{version}/{key}", KEY_PREFIX="p")
    cache.set("key", 1, version=3)
    assert CacheEntry.objects.get().name == "p/3/key"
    assert isinstance(cache, PostgresCache)


class TestAValueLargerThanItsWholeCache:
    def test_is_refused_with_its_key_its_size_and_the_bound_and_evicts_nothing(self, make_cache):
        cache = make_cache(MAX_BYTES=100_000)
        cache.set_many({str(number): b"x" * 1000 for number in range(50)})
        for write in (cache.set, cache.add):
            with pytest.raises(
                ValueTooLargeError, match=r"at most 100,000 bytes .* got 100,\d+ for ':1:large'"
            ):
                write("large", b"x" * 100_000, None)
        assert len(cache.keys("*")) == 50

    def test_leaves_no_older_value_behind(self, make_cache, caplog):
        cache = make_cache("shared", MAX_BYTES=100_000)
        lenient = make_cache("shared", MAX_BYTES=100_000, ON_ERROR="ignore")
        cache.set("key", "old")
        with pytest.raises(ValueTooLargeError):
            cache.set("key", b"x" * 100_000)
        assert cache.get("key") is None
        cache.set("key", "old")
        lenient.set("key", b"x" * 100_000)
        assert cache.get("key") is None
        assert "Not cached: A cached value must be at most 100,000 bytes" in caplog.text

    def test_costs_set_many_that_one_only(self, make_cache):
        cache = make_cache("shared", MAX_BYTES=100_000)
        lenient = make_cache("shared", MAX_BYTES=100_000, ON_ERROR="ignore")
        data = {"a": 1, "large": b"x" * 100_000, "z": 2}
        cache.set("large", "old")
        with pytest.raises(ValueTooLargeError, match="for ':1:large'"):
            cache.set_many(data)
        assert cache.get_many(data) == {"a": 1, "z": 2}
        cache.clear()
        assert lenient.set_many(data) == ["large"]
        assert cache.get_many(data) == {"a": 1, "z": 2}

    def test_that_just_fits_is_kept_and_the_others_go(self, make_cache):
        cache = make_cache(MAX_BYTES=100_000)
        cache.set_many({str(number): b"x" * 1000 for number in range(90)})
        cache.set("large", b"x" * 95_000, None)
        assert len(cache.get("large")) == 95_000
        assert sum(entry.size + 100 for entry in CacheEntry.objects.with_size()) < 105_000


class TestSetWithXx:
    def test_writes_only_where_there_is_an_entry(self, cache):
        assert not cache.set("key", 1, xx=True)
        assert cache.get("key") is None
        cache.set("key", 1, tags=["old"])
        assert cache.set("key", 2, 1000, xx=True, tags=["new"])
        assert cache.get("key") == 2
        assert cache.ttl("key") == 1000
        assert cache.delete_tags("old") == 0
        assert cache.delete_tags("new") == 1
        assert asyncio.run(cache.aset("key", 3, xx=True)) is False

    def test_takes_an_expired_entry_for_none(self, cache):
        cache.set("key", 1)
        expire_by(1)
        assert not cache.set("key", 2, xx=True)
        assert cache.get("key") is None

    def test_deletes_with_a_timeout_that_is_over(self, cache):
        cache.set("key", 1)
        assert cache.set("key", 2, 0, xx=True)
        assert not cache.set("key", 2, 0, xx=True)

    def test_leaves_no_older_value_where_the_new_one_is_too_large(self, make_cache):
        cache = make_cache(MAX_BYTES=1000)
        cache.set("key", "old")
        with pytest.raises(ValueTooLargeError):
            cache.set("key", "x" * 1000, xx=True)
        assert cache.get("key") is None

    def test_and_nx_is_a_contradiction(self, cache):
        with pytest.raises(ValueError, match="give one of them"):
            cache.set("key", 1, nx=True, xx=True)

    def test_counts_within_bounds(self, make_cache):
        cache = make_cache(MAX_BYTES=200_000)
        cache.set_many({str(number): 1 for number in range(100)})
        for number in range(100):
            assert cache.set(str(number), b"x" * 10_000, xx=True) in (True, False)
        assert sum(entry.size + 100 for entry in CacheEntry.objects.with_size()) < 220_000


def test_async_calls_take_values_that_ask_the_database_when_they_are_pickled(cache):
    """As Django's own caches do: an unevaluated queryset is one."""
    ContentType.objects.first()

    def types():
        return ContentType.objects.order_by("pk")[:3]

    async def call():
        await cache.aset("set", types())
        await cache.aset("inside", {"rows": [types()]})
        await cache.aadd("add", types())
        await cache.aset("xx", 1)
        await cache.aset("xx", types(), xx=True)
        await cache.aset_many({"many": types(), "plain": 1})
        await cache.aget_or_set("default", types)
        await sync_to_async(connections.close_all)()  # of the thread that asked
        return await cache.aget_many(["set", "inside", "add", "xx", "many", "plain", "default"])

    found, expected = asyncio.run(call()), list(types())
    assert found.pop("plain") == 1
    assert list(found.pop("inside")["rows"][0]) == expected
    assert len(found) == 5
    assert all(list(rows) == expected for rows in found.values())
