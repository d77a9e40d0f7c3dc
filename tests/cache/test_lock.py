"""One holder at a time over all processes, and a dead holder blocks nobody for long."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from datetime import UTC, datetime, timedelta

import pytest

from pgonly_django.cache import lock as lock_module
from pgonly_django.exceptions import LockError, LockNotAcquiredError
from pgonly_django.models import CacheLock
from tests.cache.conftest import start_crowd, wait_until


@pytest.mark.process
def test_processes_that_count_under_a_lock_lose_no_count_and_get_growing_tokens(crowd, make_cache):
    make_cache("crowd").set("unsafe", 0)
    tokens = crowd("hold_lock", 8, times=25)
    assert make_cache("crowd").get("unsafe") == 200
    assert all(mine == sorted(mine) for mine in tokens)
    assert len({token for mine in tokens for token in mine}) == 200


@pytest.mark.process
def test_the_lock_of_a_killed_process_is_taken_over(make_cache):
    crowd = start_crowd("hold_lock_for_ever", 1)
    holder = int(crowd.stdout.readline())
    os.kill(holder, signal.SIGKILL)
    lock = make_cache("crowd").lock("guard", blocking_timeout=20)
    assert lock.acquire()
    lock.release()
    crowd.wait(20)
    crowd.stdout.close()


def test_a_held_lock_is_refused_and_free_after_release(cache):
    first, second = cache.lock("name", timeout=60), cache.lock("name", timeout=60)
    assert first.acquire()
    assert first.locked()
    assert first.owned()
    assert not second.owned()
    assert not second.acquire(blocking=False)
    assert not second.acquire(blocking_timeout=0.05)
    with pytest.raises(LockNotAcquiredError), cache.lock("name", blocking_timeout=0.05):
        pytest.fail("entered")
    first.release()
    assert second.acquire()
    assert second.token > first.token
    second.release()
    assert not CacheLock.objects.exists()


def test_who_waits_is_woken_by_the_release(cache, monkeypatch):
    monkeypatch.setattr("pgonly_django.cache.wakeup.FIRST_LOOK_SECONDS", 100)
    monkeypatch.setattr("pgonly_django.cache.wakeup.LAST_LOOK_SECONDS", 100)
    lock, answers = cache.lock("name", timeout=60), []
    lock.acquire()
    waiting = threading.Thread(target=lambda: answers.append(cache.lock("name", timeout=60).acquire()))
    waiting.start()
    wait_until(lambda: cache_listener(cache)._watches)
    lock.release()
    waiting.join(20)
    assert answers == [True]


def cache_listener(cache):
    from pgonly_django.cache.wakeup import listener_for

    return listener_for(cache.store.pool.alias)


def test_a_lock_whose_time_is_over_belongs_to_the_next_and_its_old_holder_is_told(cache):
    old, new = cache.lock("name", timeout=60), cache.lock("name", timeout=60)
    old.acquire()
    CacheLock.objects.update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert new.acquire(blocking=False)
    for late in (old.release, lambda: old.extend(60)):
        with pytest.raises(LockError, match="another's"):
            late()
    new.extend(600)
    assert CacheLock.objects.get().expires_at > datetime.now(UTC) + timedelta(seconds=500)
    new.release()


def test_a_lock_without_a_timeout_is_renewed_while_it_is_held(cache, monkeypatch):
    monkeypatch.setattr(lock_module, "LEASE_SECONDS", 0.3)
    with cache.lock("name") as lock:
        first = CacheLock.objects.get().expires_at
        wait_until(lambda: CacheLock.objects.get().expires_at > first + timedelta(seconds=0.5))
        assert lock.owned()


def test_async_holders_exclude_each_other(cache):
    inside, most = [], []

    async def work():
        async with cache.lock("name", timeout=60):
            inside.append(1)
            most.append(len(inside))
            await asyncio.sleep(0)
            inside.pop()

    async def crowd():
        await asyncio.gather(*(work() for _ in range(10)))

    asyncio.run(crowd())
    assert most == [1] * 10


def test_clear_releases_no_lock(cache):
    with cache.lock("name", timeout=60) as lock:
        cache.clear()
        assert lock.owned()
