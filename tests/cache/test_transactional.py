from __future__ import annotations

import asyncio
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, connections, transaction

from pgonly_django.cache import PostgresCache
from pgonly_django.cache.transactional import TransactionalCache
from pgonly_django.exceptions import CacheUnavailableError, CircularComputationError, ValueTooLargeError
from pgonly_django.models import CacheEntry

pytestmark = pytest.mark.slow


class Rollback(Exception):  # noqa: N818 - not an error
    pass


def test_outside_of_a_transaction_it_is_the_cache_itself(cache):
    cache.transactional().set("key", 1)
    assert cache.get("key") == 1


def test_writes_wait_for_the_commit_and_reads_inside_see_them(cache):
    cache.set_many({"old": 1, "counter": 10, "doomed": 1})
    mine = cache.transactional()
    with transaction.atomic():
        mine.set("new", "value")
        assert mine.add("added", 1)
        assert not mine.add("old", 2)
        assert mine.incr("counter", 5) == 15
        assert mine.delete("doomed")
        assert mine.get_or_set("computed", lambda: 7) == 7
        names = ["new", "added", "old", "counter", "doomed", "computed"]
        assert mine.get_many(names) == {"new": "value", "added": 1, "old": 1, "counter": 15, "computed": 7}
        assert cache.get_many(names) == {"old": 1, "counter": 10, "doomed": 1}
        cache.incr("counter")
    assert cache.get_many(names) == {"new": "value", "added": 1, "old": 1, "counter": 16, "computed": 7}


def test_writes_vanish_with_the_rollback(cache):
    cache.set("key", "old")
    mine = cache.transactional()
    with pytest.raises(Rollback), transaction.atomic():
        mine.set("key", "new")
        mine.clear()
        raise Rollback
    assert mine.get("key") == cache.get("key") == "old"


def test_a_rolled_back_savepoint_takes_its_writes_along(cache):
    mine = cache.transactional()
    with transaction.atomic():
        mine.set("key", "outer")
        with pytest.raises(Rollback), transaction.atomic():
            mine.set("key", "inner")
            assert mine.get("key") == "inner"
            raise Rollback
        assert mine.get("key") == "outer"
    assert cache.get("key") == "outer"


def test_tags_and_clear_hide_what_was_stored_but_not_what_is_written_afterwards(cache):
    cache.set("tagged", 1, tags=["tag"])
    cache.set("plain", 2)
    mine = cache.transactional()
    with transaction.atomic():
        mine.delete_tags("tag")
        assert mine.get("tagged") is None
        mine.set("tagged", 3, tags=["tag"])
        assert mine.get("tagged") == 3
    assert cache.get_many(["tagged", "plain"]) == {"tagged": 3, "plain": 2}


class UpperCache(PostgresCache):
    def make_key(self, key, version=None):
        return super().make_key(key, version).upper()


def test_a_subclass_makes_the_keys_inside_too(make_cache):
    cache = UpperCache(make_cache().store.location, {})
    with transaction.atomic():
        mine = cache.transactional()
        mine.set("key", 1)
        mine.set_many({"many": 2})
        assert (mine.get("Key"), mine.get("MANY")) == (1, 2)
    assert (cache.get("Key"), cache.get("MANY")) == (1, 2)


def test_versions_and_other_caches_are_kept_apart(make_cache):
    one, other = make_cache(), make_cache()
    with transaction.atomic():
        one.transactional().set("key", 1)
        assert one.transactional().get("key") == 1
        assert one.transactional().get("key", version=2) is None
        assert other.transactional().get("key") is None


def test_what_a_value_is_at_set_counts_not_what_becomes_of_it(cache):
    mine = cache.transactional()
    papers = [1]
    with transaction.atomic():
        mine.set("papers", papers)
        mine.add("added", papers)
        papers.append(2)
        mine.get("papers").append(3)
        assert mine.get_many(["papers", "added"]) == {"papers": [1], "added": [1]}
    assert cache.get_many(["papers", "added"]) == {"papers": [1], "added": [1]}


def test_what_cannot_be_stored_fails_at_set_not_after_the_commit(cache):
    with transaction.atomic(), pytest.raises((pickle.PicklingError, AttributeError)):
        cache.transactional().set("key", lambda: 1)


def test_the_async_methods_know_tags_and_await_functions(cache):
    mine = cache.transactional()

    async def compute():
        await asyncio.sleep(0)
        return "computed"

    async def scene():
        await mine.aset("set", 1, tags=["tag"])
        assert await mine.aadd("added", 2, tags=["tag"])
        assert await mine.aget_or_set("computed", compute, tags=["tag"]) == "computed"
        found = await cache.aget_many(["set", "added", "computed"])
        await mine.adelete_tags("tag")
        return found, await cache.aget_many(["set", "added", "computed"])

    assert async_to_sync(scene)() == ({"set": 1, "added": 2, "computed": "computed"}, {})


# What the modules of the cache use among themselves.
NO_METHODS_FOR_CALLERS = {
    "failed", "is_configured", "name_of", "pattern", "seconds_of", "stored_key", "stored_keys",
    "validate_key", "make_key", "make_and_validate_key", "get_backend_timeout", "close", "aclose",
}  # fmt: skip
# These only call other methods, or are the same inside a transaction.
MADE_OF_OTHERS = {
    "incr_version", "decr_version", "aincr_version", "adecr_version", "decr", "adecr", "keys", "akeys",
    "expire", "aexpire", "pexpire", "apexpire", "pexpire_at", "apexpire_at", "ttl", "attl", "lock",
}  # fmt: skip
METHODS = [name for name in dir(PostgresCache) if name[0] != "_" and name not in NO_METHODS_FOR_CALLERS]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_cache_is_there_with_the_same_arguments(name):
    assert (name in vars(TransactionalCache)) != (name in MADE_OF_OTHERS)
    theirs, ours = (
        inspect.signature(getattr(kind, name)).parameters for kind in (PostgresCache, TransactionalCache)
    )
    assert {each: (it.kind, it.default) for each, it in ours.items()} == {
        each: (it.kind, it.default) for each, it in theirs.items()
    }


SOON = datetime.now(UTC) + timedelta(days=1)
# Each with what stands in the cache before it: one number, one text and one that never expires, all tagged.
CALLS = {
    "set": lambda cache: cache.set("text", "new", 50_500, tags=["other"]),
    "set over": lambda cache: cache.set("text", "new", 0),
    "set nx": lambda cache: (cache.set("text", "new", nx=True), cache.set("made", 1, nx=True)),
    "set xx": lambda cache: (cache.set("text", "new", 70_500, xx=True), cache.set("made", 1, xx=True)),
    "set xx over": lambda cache: cache.set("text", "new", 0, xx=True),
    "add": lambda cache: (cache.add("text", "new"), cache.add("made", 1, 20_500, tags=["t"])),
    "add over": lambda cache: (cache.add("text", "new", 0), cache.add("made", 1, 0)),
    "set_many": lambda cache: cache.set_many({"text": "new", "made": 1}, 60_500, tags=["other"]),
    "set_many over": lambda cache: cache.set_many({"text": "new", "made": 1}, 0),
    "set_many none": lambda cache: cache.set_many({}),
    "touch": lambda cache: (cache.touch("text", 77_500), cache.touch("missing", 77)),
    "touch over": lambda cache: (cache.touch("text", 0), cache.touch("number", -1)),
    "touch for ever": lambda cache: cache.touch("text", None),
    "expire": lambda cache: cache.expire("text", timedelta(seconds=50_500)),
    "pexpire": lambda cache: (cache.pexpire("text", 50_500_000), cache.pexpire("number", 0)),
    "expire_at": lambda cache: (cache.expire_at("text", SOON), cache.expire_at("number", 5)),
    "pexpire_at": lambda cache: cache.pexpire_at("text", SOON.timestamp() * 1000),
    "persist": lambda cache: (cache.persist("text"), cache.persist("kept"), cache.persist("missing")),
    "get_and_touch": lambda cache: (cache.get_and_touch("text", 5, 50_500), cache.get_and_touch("missing", 5)),
    "incr": lambda cache: (cache.incr("number", 4), cache.decr("number"), cache.incr("number", 0.5)),
    "incr_version": lambda cache: (cache.incr_version("text"), cache.decr_version("number")),
    "get_or_set": lambda cache: (
        cache.get_or_set("text", lambda: "computed"),
        cache.get_or_set("made", lambda: "computed", 40_500, stale=30, lock_timeout=5, tags=["t"]),
        cache.get_or_set("plain", 5),
    ),
    "delete": lambda cache: (cache.delete("text"), cache.delete("missing")),
    "delete_many": lambda cache: cache.delete_many(["text", "number", "missing"]),
    "delete_pattern": lambda cache: cache.delete_pattern("[nt]*e[rx]*"),
    "clear_prefix": lambda cache: cache.clear_prefix(cache.make_key("te")),
    "clear": lambda cache: cache.clear(),
    "many": lambda cache: (
        cache.set("made", 1, None), cache.delete("text"), cache.incr("made"), cache.touch("made", 10_500),
        cache.delete_pattern("num*"), cache.add("number", 1), cache.set_many({"text": "again"}),
    ),
}  # fmt: skip
NAMES = ["text", "number", "kept", "made", "plain", "missing"]


def state(cache):
    """All that a cache can be asked, without what changes while the test runs."""
    left = {name: cache.ttl(name) for name in NAMES}
    return {
        "values": cache.get_many(NAMES),
        "one by one": [cache.get(name, "none") for name in NAMES],
        "there": [name for name in NAMES if cache.has_key(name)],
        "version 2": [cache.get(name, "none", version=2) for name in NAMES],
        "in": [name for name in NAMES if name in cache],
        "seconds": {name: None if each is None else each // 1000 for name, each in left.items()},
        "never": [name for name in NAMES if cache.pttl(name) is None],
        "keys": (cache.keys("*"), list(cache.iter_keys("[kmt]*", itersize=2)), cache.keys("*", version=2)),
    }


def filled(cache):
    cache.set_many({"text": "old", "number": 10}, 100_500, tags=["all"])
    cache.set("kept", [1], None, tags=["all"])
    return cache


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
class TestAMethodInATransaction:
    def test_answers_as_the_cache_does_and_leaves_the_same_at_the_commit(self, make_cache, call):
        cache, model = (filled(make_cache(VERSION=3, KEY_PREFIX="p", TIMEOUT=100_500)) for _ in range(2))
        mine, before = cache.transactional(), state(cache)
        with transaction.atomic():
            answer = call(mine)
            inside = state(mine)
            assert state(cache) == before
        assert answer == call(model)
        assert inside == state(model)
        assert state(cache) == state(mine) == state(model)
        tags = [(entry.name, entry.tags and len(entry.tags)) for entry in entries(cache)]
        assert tags == [(entry.name, entry.tags and len(entry.tags)) for entry in entries(model)]

    def test_vanishes_with_a_rollback(self, cache, call):
        before = state(filled(cache))
        with pytest.raises(Rollback), transaction.atomic():
            call(cache.transactional())
            raise Rollback
        assert state(cache) == state(cache.transactional()) == before

    def test_outside_of_atomic_is_the_caches(self, make_cache, call):
        cache, model = (filled(make_cache()) for _ in range(2))
        assert call(cache.transactional()) == call(model)
        assert state(cache) == state(model)


def entries(cache):
    return CacheEntry.objects.of(cache.store.location).order_by("key")


def test_the_async_methods_see_and_write_the_same(cache):
    mine = filled(cache).transactional()

    async def compute():
        await asyncio.sleep(0)
        return "computed"

    async def scene():
        await mine.aset("made", 1, 50)
        assert await mine.aset("text", "new", xx=True)
        await mine.aset_many({"a": 1, "b": 2}, tags=["t"])
        assert await mine.aget_many(["a", "b", "made"]) == {"a": 1, "b": 2, "made": 1}
        assert await mine.aadd("c", 3)
        assert await mine.aincr("number", 5) == 15
        assert await mine.adecr("number") == 14
        assert await mine.atouch("made", 70)
        assert await mine.aexpire("made", 80)
        assert await mine.apexpire("made", 90_000)
        assert await mine.attl("made") == 90
        assert await mine.apttl("made") == 90_000
        assert await mine.aexpire_at("a", SOON)
        assert await mine.apexpire_at("b", SOON.timestamp() * 1000)
        assert await mine.apersist("b")
        assert await mine.aget_and_touch("a", timeout=None) == 1
        assert await mine.aget_or_set("computed", compute, stale=5, tags=["t"]) == "computed"
        assert await mine.adelete_many(["kept", "missing"]) == 1
        assert await mine.adelete("c")
        assert await mine.aincr_version("computed") == 2
        assert await mine.akeys("*") == ["a", "b", "made", "number", "text"]
        assert [key async for key in mine.aiter_keys("[ab]")] == ["a", "b"]
        assert await mine.adelete_pattern("[ab]") == 2
        assert await mine.ahas_key("made")
        assert not await mine.ahas_key("a")
        assert await cache.akeys("*") == ["kept", "number", "text"]

    with transaction.atomic():
        async_to_sync(scene)()
    assert cache.get_many(NAMES) == {"made": 1, "text": "new", "number": 14}
    assert cache.get("computed", version=2) == "computed"
    with transaction.atomic():
        async_to_sync(mine.adelete_tags)("all")
        async_to_sync(mine.aclear)()
    assert cache.keys("*") == []


def test_get_or_set_outside_of_atomic_is_computed_once(cache):
    """Not so inside: no other caller may be given what is not committed."""
    mine = cache.transactional()

    async def compute():
        return await CacheEntry.objects.filter(claim__isnull=False).acount()

    assert mine.get_or_set("key", lambda: CacheEntry.objects.filter(claim__isnull=False).count()) == 1
    assert async_to_sync(mine.aget_or_set)("other", compute) == 1


def test_stale_of_a_get_or_set_inside_counts_after_the_commit(cache):
    with transaction.atomic():
        cache.transactional().get_or_set("key", lambda: "old", 10, stale=3600)
    entry = CacheEntry.objects.get(key__startswith=f"{cache.store.location}:")
    assert entry.prune_minute - entry.expires_at.timestamp() // 60 in {60, 61}


def test_a_computation_inside_that_asks_for_itself_is_refused(cache):
    def compute():
        return cache.transactional().get_or_set("key", compute)

    with transaction.atomic(), pytest.raises(CircularComputationError):
        compute()


def test_what_is_too_large_is_refused_at_set_and_leaves_no_older_value(make_cache):
    cache, lenient = make_cache(MAX_BYTES=10_000), make_cache(MAX_BYTES=10_000, ON_ERROR="ignore")
    large = b"x" * 10_000
    for each in (cache, lenient):
        each.set_many({"a": "old", "b": "old"})
    with transaction.atomic():
        with pytest.raises(ValueTooLargeError):
            cache.transactional().set("a", large)
        with pytest.raises(ValueTooLargeError):
            cache.transactional().set_many({"b": large, "c": 1})
        lenient.transactional().set("a", large)
        assert lenient.transactional().set_many({"b": large, "c": 1}) == ["b"]
        assert cache.transactional().get_many("abc") == lenient.transactional().get_many("abc") == {"c": 1}
    assert cache.get_many("abc") == lenient.get_many("abc") == {"c": 1}


def test_whether_there_is_an_entry_is_asked_again_at_the_commit(cache):
    cache.set_many({"deleted": "old", "sum": 1})
    with transaction.atomic():
        mine = cache.transactional()
        assert mine.set("deleted", "new", xx=True)
        assert mine.set("made", "new", nx=True)
        assert mine.add("made too", "new")
        assert mine.incr("sum", 5) == 6
        cache.delete("deleted")
        cache.set_many({"made": "first", "made too": "first", "sum": 100})
    assert cache.get_many(["deleted", "made", "made too", "sum"]) == {
        "made": "first",
        "made too": "first",
        "sum": 105,
    }


def test_delete_pattern_with_another_prefix_than_the_caches_own(make_cache):
    own, bare = make_cache("two prefixes", KEY_PREFIX="own"), make_cache("two prefixes")
    for cache in (own, bare):
        cache.set_many({"key": 1, "other": 1})
    with transaction.atomic():
        mine = own.transactional()
        assert mine.delete_pattern("k*", prefix="") == 1
        assert mine.keys("*") == ["key", "other"]
        assert bare.transactional().keys("*") == ["other"]
    assert (own.keys("*"), bare.keys("*")) == (["key", "other"], ["other"])


def test_a_lock_is_taken_at_once(cache):
    mine = cache.transactional()
    with pytest.raises(Rollback), transaction.atomic():
        lock = mine.lock("name", timeout=60)
        assert lock.acquire(blocking=False)
        raise Rollback
    assert cache.lock("name").locked()
    lock.release()


def test_a_cache_that_fails_after_the_commit_is_logged_and_does_not_raise(make_cache, any_database, caplog):
    connections.settings["dead"] = {**connections.settings["default"], "HOST": "127.0.0.1", "PORT": "1"}
    dead, alive = make_cache(DATABASE="dead"), make_cache()
    try:
        with transaction.atomic():
            dead.transactional("default").set("key", 1)
            alive.transactional().set("key", 1)
        with pytest.raises(CacheUnavailableError):
            dead.set("key", 1)
    finally:
        del connections.settings["dead"]
    assert alive.get("key") == 1
    assert "Error calling PendingWrite.apply in on_commit()" in caplog.text


def test_with_autocommit_off_a_write_is_refused(cache):
    connection.set_autocommit(False)
    try:
        with pytest.raises(transaction.TransactionManagementError, match="autocommit is off in 'default'"):
            cache.transactional().set("key", 1)
    finally:
        connection.rollback()
        connection.set_autocommit(True)
    assert cache.get("key") is None


def test_a_connection_that_is_not_open_is_taken_as_it_will_be_opened(cache, monkeypatch):
    with ThreadPoolExecutor(1) as thread:  # whose connection has never been open
        thread.submit(cache.transactional().set, "key", 1).result()
    assert cache.get("key") == 1
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
    with pytest.raises(transaction.TransactionManagementError, match="autocommit is off in 'default'"):
        cache.transactional().set("key", 2)
    assert connection.connection is None
