"""One holder at a time over all processes, and a dead holder blocks nobody for long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test import TestCase

from pgonly_django.cache import PostgresCache
from pgonly_django.cache import lock as lock_module
from pgonly_django.cache.entry import CHANNEL
from pgonly_django.cache.lock import Lock
from pgonly_django.cache.options import background
from pgonly_django.database.listener import Watch, listener_for
from pgonly_django.exceptions import (
    CacheError,
    CacheUnavailableError,
    LockError,
    LockNotAcquiredError,
    UnansweredError,
)
from pgonly_django.models import CacheLock
from tests import activity
from tests.cache.conftest import start_crowd
from tests.database.calls import lose
from tests.interruptions import raised_by_handler
from tests.sql import sql
from tests.waiting import PATIENT, beside, cancel_once, wait_for


@pytest.mark.slow
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
    assert not first.locked()
    assert second.acquire(blocking=False)


# Whoever was given the first token stands still between getting it and meeting the row.
DELAY_THE_FIRST = """
CREATE FUNCTION tests_delay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.token = {first} THEN PERFORM pg_advisory_xact_lock(4711); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER tests_delay BEFORE INSERT ON pgonly_cache_lock FOR EACH ROW EXECUTE FUNCTION tests_delay()
"""


def test_the_token_of_a_waiter_that_was_slow_is_greater_than_that_of_the_holder_before_it(make_cache):
    cache = make_cache()
    late, early = cache.lock("name", timeout=60), cache.lock("name", timeout=60)
    with delayed(DELAY_THE_FIRST) as holding, beside(late.acquire):
        wait_for(hangs)
        early.acquire()
        first = early.token
        early.release()
        holding.cursor().execute("SELECT pg_advisory_unlock(4711)")
    assert late.token > first
    late.release()


def hangs():
    return sql(
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )


def cancelled(lock):
    cancel_once(hangs, lock.aacquire())


def interrupted(lock):
    def interrupt():
        wait_for(hangs)
        os.kill(os.getpid(), signal.SIGUSR1)

    with (
        raised_by_handler(signal.SIGUSR1, KeyboardInterrupt),
        beside(interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        lock.acquire()


def unanswered(lock):
    with pytest.raises(UnansweredError, match="did not answer"):
        lock.acquire()


@pytest.mark.sample(2)
@pytest.mark.parametrize("timeout", [60, None])
@pytest.mark.parametrize("give_up", [cancelled, interrupted, unanswered])
def test_what_gave_up_while_postgresql_was_at_it_holds_no_lock_afterwards(make_cache, give_up, timeout):
    cache = make_cache(TIMEOUT_SECONDS=0.5 if give_up is unanswered else 20, POOL_SIZE=9)  # a pool of its own
    lock, next_one = cache.lock("name", timeout=timeout), cache.lock("name", timeout=60)
    with delayed(DELAY_THE_FIRST) as holding:
        give_up(lock)
        wait_for(lambda: CacheLock.objects.filter(refused__isnull=False))
        holding.cursor().execute("SELECT pg_advisory_unlock(4711)")
        wait_for(lambda: not statements_of_the_cache())
        assert not lock.owned()
        assert lock.token == 0
        assert not renewals()
        assert next_one.acquire(blocking=False)
    next_one.release()


def statements_of_the_cache():
    return activity.pids("application_name = 'pgonly cache' AND state = 'active'")


def renewals():
    return [thread for thread in threading.enumerate() if thread.name == "pgonly cache lock"]


@pytest.mark.parametrize(
    "acquire", [Lock.acquire, lambda lock: asyncio.run(lock.aacquire())], ids=["sync", "async"]
)
def test_what_is_interrupted_between_its_take_and_the_end_of_its_acquire_holds_no_lock(
    cache, monkeypatch, acquire
):
    first, lock, next_one = cache.lock("name", timeout=60), cache.lock("name"), cache.lock("name", timeout=60)
    first.acquire()
    close = Watch.close

    def close_and_interrupt(watch):
        close(watch)
        monkeypatch.setattr(Watch, "close", close)
        raise KeyboardInterrupt

    def release_once_it_waits():
        wait_for(lambda: listener_for(cache.store.pool.alias, CHANNEL)._watches)
        first.release()

    monkeypatch.setattr(Watch, "close", close_and_interrupt)
    with beside(release_once_it_waits), pytest.raises(KeyboardInterrupt):
        acquire(lock)
    assert lock.token == 0
    wait_for(lambda: not renewals())
    assert next_one.acquire(blocking_timeout=20)
    next_one.release()


def test_who_is_cancelled_while_another_holds_the_lock_leaves_nothing_to_do(cache, monkeypatch):
    monkeypatch.setattr("pgonly_django.database.listener.FIRST_LOOK_SECONDS", 100)
    monkeypatch.setattr(Watch, "notify", lambda _: None)  # so that it takes nothing while it is cancelled
    watches = listener_for(cache.store.pool.alias, CHANNEL)._watches
    with cache.lock("name", timeout=60):
        cancel_once(
            lambda: [1 for same in watches.values() for watch in same if watch._signal],
            cache.lock("name").aacquire(),
        )
        wait_for(lambda: background._thread is None)
        assert not CacheLock.objects.filter(refused__isnull=False)


def test_a_lock_whose_release_was_cut_off_is_free_nevertheless(make_cache):
    cache = make_cache()
    lock = cache.lock("name", timeout=600)
    lock.acquire()
    with contextlib.closing(connection.copy()) as holding:
        holding.set_autocommit(False)
        holding.cursor().execute("SELECT FROM pgonly_cache_lock FOR UPDATE")
        with beside(lock.release) as outcomes:
            wait_for(statements_of_the_cache)
            lose(cache)
    assert isinstance(outcomes[0], CacheError)
    wait_for(lambda: CacheLock.objects.filter(holder=None))


def test_what_was_not_sent_leaves_nothing_to_do(make_cache):
    cache = make_cache(POOL_SIZE=10)
    cache.store.pool._failed_at = time.monotonic()
    with pytest.raises(CacheUnavailableError, match="not tried again yet"):
        cache.lock("name", timeout=60).acquire()
    assert not background._undone


def test_releases_delete_the_rows_of_locks_that_nobody_used_for_an_hour(cache, monkeypatch):
    monkeypatch.setattr(lock_module, "RELEASES_PER_CLEANING", 1)
    names = [cache.stored_key(name, None).decode() for name in ("old", "new")]
    now = datetime.now(UTC)
    CacheLock.objects.create(name=names[0], token=1, expires_at=now - timedelta(hours=2))
    CacheLock.objects.create(name=names[1], token=2, expires_at=now - timedelta(minutes=2))
    lock = cache.lock("name", timeout=60)
    lock.acquire()
    lock.release()
    assert set(CacheLock.objects.values_list("name", flat=True)) == {names[1], lock._key.decode()}


@contextlib.contextmanager
def delayed(trigger):
    """`trigger` on the table of locks, and a connection that holds what it waits for."""
    holding = connection.copy()
    try:
        with holding.cursor() as cursor:
            cursor.execute("SELECT nextval('pgonly_cache_lock_token'::regclass) + 1")
            cursor.execute(trigger.replace("{first}", str(cursor.fetchone()[0])))
            cursor.execute("SELECT pg_advisory_lock(4711)")
        yield holding
    finally:
        with holding.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock_all()")
            cursor.execute("DROP TRIGGER tests_delay ON pgonly_cache_lock")
            cursor.execute("DROP FUNCTION tests_delay")
        holding.close()


def test_who_waits_is_woken_by_the_release(cache, monkeypatch):
    monkeypatch.setattr("pgonly_django.database.listener.FIRST_LOOK_SECONDS", 100)
    monkeypatch.setattr("pgonly_django.database.listener.LAST_LOOK_SECONDS", 100)
    lock = cache.lock("name", timeout=60)
    lock.acquire()
    with beside(cache.lock("name", timeout=60).acquire) as answers:
        wait_for(lambda: listener_for(cache.store.pool.alias, CHANNEL)._watches)
        lock.release()
    assert answers == [True]


def test_a_lock_whose_time_is_over_belongs_to_the_next_and_its_old_holder_is_told(cache):
    old, new = cache.lock("name", timeout=60), cache.lock("name", timeout=60)
    old.acquire()
    CacheLock.objects.update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert new.acquire(blocking=False)
    for late in (old.release, lambda: old.extend(60)):
        with pytest.raises(LockError, match="another may hold it"):
            late()
    new.extend(600)
    assert CacheLock.objects.get().expires_at > datetime.now(UTC) + timedelta(seconds=500)
    new.release()


def test_a_lock_without_a_timeout_is_renewed_while_it_is_held(cache, monkeypatch):
    monkeypatch.setattr(lock_module, "LEASE_SECONDS", 0.3)
    with cache.lock("name") as lock:
        row = CacheLock.objects.filter(name=lock._key.decode())
        first = row.get().expires_at
        wait_for(lambda: row.get().expires_at > first + timedelta(seconds=0.5))
        assert lock.owned()


def test_an_error_that_nobody_expects_ends_no_renewal(cache, monkeypatch, caplog):
    monkeypatch.setattr(lock_module, "LEASE_SECONDS", 0.3)
    lock, renewals = cache.lock("name"), []
    monkeypatch.setattr(lock, "extend", lambda seconds: renewals.append(seconds) or 1 / 0)
    lock.acquire()
    try:
        wait_for(lambda: len(renewals) > 1)
        assert "Lock 'name' not renewed: division by zero" in caplog.text
    finally:
        lock._stop_renewal.set()


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


class TestInATestCase(TestCase):
    async def test_an_async_lock_is_the_tests_own_as_a_sync_one_is(self):
        cache = PostgresCache("testcase", {"OPTIONS": PATIENT})
        sync = cache.lock("name", timeout=60)
        assert await sync_to_async(sync.acquire)()
        assert not await cache.lock("name", timeout=60).aacquire(blocking=False)
        await sync_to_async(sync.release)()
        assert await cache.lock("name", timeout=60).aacquire(blocking=False)
