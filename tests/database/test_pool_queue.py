"""More calls than connections: who waits, who gives up, and whose place is free again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from pgonly_django.cache.entry import CHANNEL
from pgonly_django.database import listener
from pgonly_django.database import pool as pool_module
from pgonly_django.database.operation import Signal
from pgonly_django.exceptions import CacheUnavailableError
from tests.database.calls import row_locked, under_way
from tests.waiting import beside, wait_for

pytestmark = pytest.mark.slow


def test_who_waited_in_vain_leaves_the_queue_and_is_told_that_postgresql_does_not_answer(own):
    patient, hasty = own.cache(POOL_SIZE=1), own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=0.1)
    patient.set("key", 1)
    with contextlib.ExitStack() as threads, row_locked(patient, "key"):
        threads.enter_context(beside(patient.set, "key", 2))
        wait_for(own.is_busy)
        for call in (lambda: hasty.get("other"), lambda: asyncio.run(hasty.aget("other"))):
            with pytest.raises(CacheUnavailableError, match="PostgreSQL did not answer the calls"):
                call()
    assert patient.get("key") == 2


def test_who_waited_in_vain_behind_others_is_told_to_raise_the_number_of_connections(own):
    patient, hasty = own.cache(POOL_SIZE=1), own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=3)
    hastier = own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=0.05)
    patient.set_many({"first": 1, "second": 1})

    async def crowd(first_locked):
        first = await under_way(own, patient.aset("first", 2))
        second, last = (
            asyncio.create_task(patient.aset("second", 2)),
            asyncio.create_task(hasty.aget("other")),
        )
        with pytest.raises(CacheUnavailableError):
            await hastier.aget("other")  # it came last: so the others stand in the queue
        first_locked.close()
        await first
        with pytest.raises(CacheUnavailableError, match="raise POOL_SIZE"):
            await last
        return second

    with row_locked(patient, "second"), contextlib.ExitStack() as first_locked:
        first_locked.enter_context(row_locked(patient, "first"))

        async def crowd_and_leave():
            second = await crowd(first_locked)
            second.cancel()

        asyncio.run(crowd_and_leave())
    assert patient.get("first") == 2


def test_whatever_line_an_exception_comes_from_outside_at_the_connections_place_is_free_again(own):
    """As where the worker cancels a job, or somebody presses Ctrl+C."""
    cache = own.cache(POOL_SIZE=1)
    cache.set("key", 1)
    for start in (contextlib.nullcontext, connection._nodb_cursor):  # a connection is there; none is
        number = 0
        while number is not None:
            with start():
                pass
            number = number + 1 if interrupted_at(number, cache.get, "key") else None
            gc.collect()
            assert cache.get("key") == 1
            assert len(own.pids("state <> 'disabled'")) <= 2  # one, and one whose goodbye is on its way
    wait_for(lambda: len(own.pids()) == 1)
    # The trace may raise where a `with` is left, before it gives its lock back: no other test's thread waits for it.
    cache.store.pool._lock = threading.RLock()


class PressedError(BaseException):
    pass


def interrupted_at(number, function, *arguments):
    """Call it, and raise at line `number` of what it runs in the pool's file. False when there is no such line."""
    seen = itertools.count()

    def at_line(frame, event, _):
        if event == "line" and next(seen) == number:
            raise PressedError
        return at_line

    def at_call(frame, *_):
        return at_line if frame.f_code.co_filename == pool_module.__file__ else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        function(*arguments)
    except PressedError:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_task_whose_loop_was_closed_in_the_middle_leaves_its_connection(own):
    cache = own.cache(POOL_SIZE=1)
    cache.set("key", 1)
    with row_locked(cache, "key"):
        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(under_way(own, cache.aset("key", 2)))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        (pid,) = own.pids()
        del task, loop
        gc.collect()
        wait_for(lambda: pid not in own.pids())
        assert cache.get("key") == 1


def test_what_the_garbage_collector_ends_waits_for_no_lock_of_its_own_thread(own):
    """It may come while this thread is in one of these locks: no view from outside finds that moment."""
    cache = own.cache()
    held, wanted = cache.lock("name", timeout=60), cache.lock("name", timeout=60)
    assert held.acquire()
    waiting = wanted._acquire(20)  # as a task that is never finished leaves it
    wait = next(waiting)
    while not isinstance(wait, Signal):
        wait = waiting.send(wait.block())
    asking = cache.store.call(cache.store.GET, key=cache.stored_key("key", None))
    next(asking)

    def collect():
        with cache.store.pool._lock, listener.listener_for(own.name, CHANNEL)._lock:
            waiting.close()
            asking.close()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    held.release()


def test_a_cancelled_call_leaves_its_place_to_who_waits_and_writes_all_or_nothing(own):
    cache = own.cache(POOL_SIZE=1)
    hasty = own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=0.05)
    before, after = dict.fromkeys("abcd", 1), dict.fromkeys("abcd", 2)
    cache.set_many(before)

    async def cancel():
        writing = await under_way(own, cache.aset_many(after))
        reading = asyncio.create_task(cache.aget("a"))
        with pytest.raises(CacheUnavailableError):
            await hasty.aget("a")  # it came last: so the other stands in the queue
        writing.cancel()
        assert await reading == 1
        with pytest.raises(asyncio.CancelledError):
            await writing

    with row_locked(cache, "c"):
        asyncio.run(cancel())
    wait_for(lambda: not own.is_busy())
    assert cache.get_many("abcd") in (before, after)
    assert len(own.pids()) == 1


def test_a_call_that_waits_for_a_lock_does_not_make_those_fail_that_are_answered(own):
    cache = own.cache(TIMEOUT_SECONDS=0.5)
    cache.set_many({"key": 1, "other": 2})
    with row_locked(cache, "key"), ThreadPoolExecutor(1) as thread:
        stuck = thread.submit(cache.set, "key", 3)
        while not stuck.done():
            assert cache.get("other") == 2
        with pytest.raises(CacheUnavailableError):
            stuck.result()
        assert cache.get("other") == 2


def test_a_cleaning_that_waits_in_vain_makes_no_other_call_fail(own, caplog):
    cache = own.cache(MAX_ENTRIES=50, TIMEOUT_SECONDS=0.2)  # every write cleans
    cache.set("key", 1)
    with contextlib.closing(connection.copy()) as holding, caplog.at_level(logging.WARNING):
        holding.set_autocommit(False)
        with holding.cursor() as cursor:
            cursor.execute("SELECT FROM pgonly_cache_usage FOR UPDATE")
        for turn in range(3):
            cache.set("key", turn)
    assert "Cleaning the cache failed" in caplog.text
    assert cache.get("key") == 2
