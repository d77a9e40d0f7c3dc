from __future__ import annotations

import asyncio
import pickle

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction


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
