"""A forked child has connections of its own, and leaves those of its parent alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import traceback
import warnings

import pytest

from pgonly_django.cache.entry import CHANNEL
from pgonly_django.database import listener, pool
from tests.database.calls import row_locked, under_way
from tests.forks import told_by_a_child
from tests.waiting import beside

pytestmark = pytest.mark.slow


def test_a_fork_in_the_middle_of_a_call_leaves_it_to_the_parent_and_says_no_goodbye(own):
    cache = own.cache(POOL_SIZE=2)
    cache.set_many({"key": 1, "other": 1})
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        with row_locked(cache, "key"):
            writing = loop.run_until_complete(under_way(own, cache.aset("key", 2)))
            cache.set("other", 2)  # on another connection, which is idle now
            before = own.pids()
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # beside threads
                child = os.fork()
            if child == 0:
                in_the_child(own, cache, writing, before)
            assert os.waitpid(child, 0)[1] == 0
        loop.run_until_complete(writing)
        loop.run_until_complete(loop.shutdown_default_executor())
    assert cache.get_many(["key", "other"]) == {"key": 2, "other": 2}
    assert len(before) == 2
    assert own.pids() == before


def in_the_child(own, cache, writing, before):
    """The garbage collector may end what the parent had under way."""
    try:
        writing.get_coro().close()
        gc.collect()
        assert cache.get("key") == 1
        assert set(own.pids()) > set(before)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def test_a_child_forked_while_a_thread_was_at_the_watches_may_close_one(own):
    """A thread forks inside of the lock, since its children must not wait for what other threads had."""
    own_listener = listener.listener_for(own.name, CHANNEL)
    watch, held, done = own_listener.watch(b"key"), threading.Event(), threading.Event()

    def hold():
        with own_listener._lock:
            held.set()
            done.wait(20)

    with beside(hold):
        assert held.wait(20)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # beside threads
            child = os.fork()
        if child == 0:
            signal.alarm(10)
            watch.close()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        done.set()
    watch.close()
    assert status == 0


def test_a_child_forked_while_a_thread_made_a_pool_makes_one_too(own):
    with pool._creating:
        assert told_by_a_child(lambda: own.cache().get_or_set("key", lambda: "new")) == "new"


def test_a_child_forked_while_a_thread_made_a_listener_makes_one_too(own):
    with listener._creating:
        assert (
            told_by_a_child(lambda: listener.listener_for(own.name, CHANNEL).watch(b"key").close()) == "None"
        )
