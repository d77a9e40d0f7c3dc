"""Deleting many: in batches of rows and of bytes, and over computations and stale values too."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from pgonly_django.cache.counters import BYTES_PER_CLEANING
from pgonly_django.cache.prune import prune_expired
from pgonly_django.models import CacheEntry
from tests.cache.conftest import DELETIONS, expire_all
from tests.sql import sql

VALUE_BYTES = 8_000_000
VALUES = 11
AT_ONCE = 32 * 1024 * 1024  # what deletes within 0.2 s on a slow disk

# Notes of every DELETE how many bytes of values it took away.
WATCH = """
CREATE TABLE pgonly_deleted (bytes bigint);
CREATE FUNCTION pgonly_note_deleted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO pgonly_deleted SELECT coalesce(sum(octet_length(value)), 0) FROM gone; RETURN NULL; END $$;
CREATE TRIGGER pgonly_note_deleted AFTER DELETE ON pgonly_cache REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION pgonly_note_deleted();
"""
FORGET = "DROP FUNCTION pgonly_note_deleted CASCADE; DROP TABLE pgonly_deleted"


@pytest.fixture
def deleted(transactional_db):
    """What the statements deleted: bytes of each."""
    sql(WATCH)
    yield lambda: [size for (size,) in sql("SELECT bytes FROM pgonly_deleted WHERE bytes > 0")]
    sql(FORGET)


def fill(cache):
    value = os.urandom(VALUE_BYTES)
    for number in range(VALUES):
        cache.set(f"key:{number}", value, tags=["tag"])


@pytest.mark.sample(2)
@pytest.mark.parametrize("delete", DELETIONS.values(), ids=DELETIONS)
def test_large_values_are_deleted_a_few_in_a_statement(cache, deleted, delete):
    fill(cache)
    assert delete(cache) in (None, VALUES)
    assert not CacheEntry.objects.exists()
    assert max(deleted()) <= AT_ONCE + VALUE_BYTES


def test_the_worker_prunes_large_values_a_few_in_a_statement(cache, deleted):
    fill(cache)
    expire_all()
    assert prune_expired("default", limit=1000) == VALUES
    assert max(deleted()) <= AT_ONCE + VALUE_BYTES


def test_writes_of_large_values_prune_as_many_bytes_as_they_add(cache, deleted):
    fill(cache)
    expire_all()
    value = os.urandom(VALUE_BYTES)
    for number in range(2 + BYTES_PER_CLEANING * 2 // VALUE_BYTES):
        cache.set(f"new:{number % 3}", value)
    assert not CacheEntry.objects.filter(key__contains="key").exists()
    assert max(deleted()) <= AT_ONCE + VALUE_BYTES


def test_large_values_are_evicted_a_few_in_a_statement(make_cache, deleted):
    fill(make_cache("shared"))
    bounded = make_cache("shared", MAX_BYTES=VALUE_BYTES * 2)
    bounded.set("mine", 1)
    bounded.set("key:0", os.urandom(VALUE_BYTES))
    bounded.store.counters.removed(
        -VALUES, -VALUES * VALUE_BYTES
    )  # what the other cache object did not count
    bounded.set("one more", os.urandom(VALUE_BYTES // 10))
    assert CacheEntry.objects.filter(key__contains="key").count() <= 2
    assert max(deleted()) <= AT_ONCE + VALUE_BYTES


def test_a_value_larger_than_a_batch_is_deleted_as_well(cache, deleted):
    cache.set_many({"a": 1, "b": os.urandom(AT_ONCE + 1), "c": 2})
    cache.clear()
    assert not CacheEntry.objects.exists()


def test_more_rows_than_a_statement_takes_are_all_deleted_and_counted(cache):
    cache.set_many({f"{number:05}": number for number in range(2500)}, tags=["tag"])
    assert cache.delete_many([f"{number:05}" for number in range(1200)]) == 1200
    assert cache.delete_pattern("*", itersize=100) == 1300
    assert not CacheEntry.objects.exists()


@pytest.mark.parametrize("how", ["delete", *DELETIONS])
class TestEveryDeletion:
    def delete(self, cache, how):
        return cache.delete("key:1") if how == "delete" else DELETIONS[how](cache)

    def test_wins_over_a_computation(self, cache, how):
        def compute():
            assert not self.delete(cache, how)  # there is no value yet, and none is counted
            return "old"

        assert cache.get_or_set("key:1", compute, tags=["tag"]) == "old"
        assert cache.get("key:1") is None
        assert not CacheEntry.objects.exists()

    def test_wins_over_a_stale_value(self, cache, how):
        cache.get_or_set("key:1", lambda: "old", 10, stale=60, tags=["tag"])
        CacheEntry.objects.update(expires_at="2020-01-01T00:00:00Z")
        assert not self.delete(cache, how)  # get() did not find it any more either
        assert not CacheEntry.objects.exists()


@pytest.mark.parametrize(
    "expire",
    [
        lambda cache: cache.set("key", 1, 0),
        lambda cache: cache.set("key", 1, 0, xx=True),
        lambda cache: cache.set_many({"key": 1}, -1),
        lambda cache: cache.touch("key", 0),
        lambda cache: cache.pexpire("key", 0),
        lambda cache: cache.expire_at("key", datetime.now(UTC) - timedelta(seconds=1)),
        lambda cache: cache.pexpire_at("key", 1000),
        lambda cache: cache.get_and_touch("key", timeout=0),
    ],
    ids=["set", "xx", "set_many", "touch", "pexpire", "expire_at", "pexpire_at", "get_and_touch"],
)
def test_what_is_made_to_expire_now_is_not_shown_stale(cache, expire):
    cache.get_or_set("key", lambda: "old", 10, stale=3600)
    expire(cache)
    assert not CacheEntry.objects.exists()
