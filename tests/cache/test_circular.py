from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import async_to_sync

from pgonly_django.exceptions import CircularComputationError
from pgonly_django.models import CacheEntry
from tests.cache.conftest import expire_by


class TestACircularComputation:
    """A computation that asks for its own key would wait for itself until its lock_timeout."""

    def test_is_refused_with_the_keys_it_goes_through(self, cache):
        def outer():
            return cache.get_or_set("inner", lambda: cache.get_or_set("outer", outer))

        with pytest.raises(CircularComputationError) as raised:
            cache.get_or_set("outer", outer)
        assert raised.value.keys == (":1:outer", ":1:inner", ":1:outer")
        assert "':1:outer' -> ':1:inner' -> ':1:outer'" in str(raised.value)
        assert not CacheEntry.objects.filter(
            claim__isnull=False
        ).exists()  # the next caller may compute at once

    def test_is_refused_with_one_key_and_in_a_refresh(self, cache):
        with pytest.raises(CircularComputationError):
            cache.get_or_set("key", lambda: cache.get_or_set("key", lambda: 1))
        cache.get_or_set("key", lambda: "old", 10, stale=60)
        expire_by(5)
        with pytest.raises(CircularComputationError):
            cache.get_or_set("key", lambda: cache.get_or_set("key", lambda: 1), 10)

    def test_is_refused_among_tasks_and_threads_that_the_computation_starts(self, cache):
        async def ask(key="key"):
            return await cache.aget_or_set(key, compute)

        async def compute():
            return await asyncio.create_task(ask())

        async def compute_in_a_thread():
            return await asyncio.to_thread(cache.get_or_set, "thread", lambda: 1)

        with pytest.raises(CircularComputationError):
            async_to_sync(cache.aget_or_set)("key", compute)
        with pytest.raises(CircularComputationError):
            async_to_sync(cache.aget_or_set)("thread", compute_in_a_thread)
        with pytest.raises(CircularComputationError):
            cache.get_or_set("key", compute)  # an async function, run for a sync caller
        with pytest.raises(CircularComputationError):
            async_to_sync(cache.aget_or_set)("task", lambda: asyncio.create_task(ask("task")))

    def test_is_none_where_the_value_is_there_or_shown_stale(self, cache):
        def compute():
            cache.set("key", "set by the function")
            return cache.get_or_set("key", lambda: pytest.fail("computed"))

        assert cache.get_or_set("key", compute) == "set by the function"
        expire_by(5)
        stale = cache.get_or_set("key", lambda: cache.get_or_set("key", 1, 10, stale=60), 10, stale=60)
        assert stale == "set by the function"

    def test_is_none_between_two_caches_two_keys_or_two_tasks(self, make_cache):
        one, other = make_cache(), make_cache()
        assert one.get_or_set("key", lambda: other.get_or_set("key", lambda: one.get_or_set("b", 7))) == 7

        async def compute():
            await asyncio.sleep(0.05)
            return 1

        async def both():
            return await asyncio.gather(*(one.aget_or_set("c", compute) for _ in range(2)))

        assert async_to_sync(both)() == [1, 1]

    def test_is_over_when_the_computation_is(self, cache):
        async def scene():
            tasks, go_on = [], asyncio.Event()

            async def ask_later():
                await go_on.wait()
                return await cache.aget_or_set("key", lambda: "second")

            async def compute():
                tasks.append(asyncio.create_task(ask_later()))
                return "first"

            assert await cache.aget_or_set("key", compute) == "first"
            await cache.adelete("key")
            go_on.set()
            return await tasks[0]

        assert async_to_sync(scene)() == "second"
