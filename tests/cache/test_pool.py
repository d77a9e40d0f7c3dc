"""Connections: none before they are needed, few, and good after a fork, a pooler and a dropped database."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection, connections

from pgonly_django.cache import PostgresCache, wakeup
from pgonly_django.cache import link as link_module
from pgonly_django.cache.drive import Signal
from pgonly_django.cache.lock import Attempt
from pgonly_django.exceptions import CacheError, CacheUnavailableError
from tests.cache.conftest import wait_until


def test_nothing_is_opened_before_the_first_call(make_cache):
    cache = make_cache(POOL_SIZE=7)
    assert not cache.store.pool._links
    cache.get("key")
    assert len(cache.store.pool._links) == 1


def test_many_threads_share_few_connections(make_cache):
    cache = make_cache(POOL_SIZE=3)
    answers = []

    def work(number):
        for turn in range(50):
            cache.set(f"{number}:{turn}", turn)
            answers.append(cache.get(f"{number}:{turn}") == turn)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 800
    assert all(answers)
    assert len(cache.store.pool._links) <= 3


def test_a_connection_the_server_closed_is_replaced_before_it_is_used(cache):
    cache.set("number", 1)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'pgonly cache' AND datname = current_database()"
        )
    wait_until(lambda: not any(link.is_quiet() for link in cache.store.pool._idle))
    assert cache.incr("number") == 2


def test_django_may_create_and_drop_databases_while_the_cache_has_connections(cache):
    cache.set("key", 1)
    lock = cache.lock("name", timeout=60)
    lock.acquire()
    assert not cache.lock("name").acquire(blocking_timeout=0.1)  # starts the listening connection too
    with connection._nodb_cursor():
        assert not cache.store.pool._links
        wait_until(lambda: connections_of_the_cache() == 0)
    assert cache.get("key") == 1
    lock.release()


def connections_of_the_cache():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name LIKE 'pgonly cache%%' AND datname = current_database()"
        )
        return cursor.fetchone()[0]


def test_it_follows_djangos_connection_to_another_database(cache):
    cache.set("key", 1)
    name = connection.settings_dict["NAME"]
    connection.settings_dict["NAME"] = "postgres"
    try:
        pool = cache.store.pool
        assert not cache.has_key("key")
        assert all(link.pgconn.db == b"postgres" for link in pool._idle)
    finally:
        connection.settings_dict["NAME"] = name
    assert cache.get("key") == 1


def test_it_assumes_the_role_that_djangos_connection_assumes(cache):
    role = f"the app of {connection.settings_dict['NAME']}"
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE ROLE "{role}" NOLOGIN')
    connection.settings_dict["OPTIONS"]["assume_role"] = role
    try:
        cache.store.pool.close_idle()
        assert cache.get("key", "default") == "default"  # this role may not read the table
        strict = PostgresCache("strict", {"OPTIONS": {"ON_ERROR": "raise"}})
        with pytest.raises(CacheError, match="permission denied"):
            strict.get("key")
    finally:
        del connection.settings_dict["OPTIONS"]["assume_role"]
        cache.store.pool.close_idle()
        with connection.cursor() as cursor:
            cursor.execute(f'DROP ROLE "{role}"')


@contextlib.contextmanager
def row_locked(cache, *keys):
    """Writes of these keys wait, until it ends."""
    holding = connection.copy()
    try:
        holding.set_autocommit(False)
        with holding.cursor() as cursor:
            stored = [cache.stored_key(key, None).decode() for key in keys]
            cursor.execute("SELECT FROM pgonly_cache WHERE key = ANY(%s) FOR UPDATE", [stored])
        yield
    finally:
        holding.close()


def statements_of_the_cache():
    with contextlib.closing(connection.copy()) as looking, looking.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgonly cache' AND state = 'active' "
            "AND datname = current_database()"
        )
        return cursor.fetchone()[0]


async def under_way(coroutine):
    """Its task, once PostgreSQL is at it."""
    task = asyncio.create_task(coroutine)
    await asyncio.to_thread(wait_until, statements_of_the_cache)
    return task


@contextlib.contextmanager
def in_the_background(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)


# Each with a size of its own, and so with a pool of its own, whose failures are not the other tests'.


def test_who_waited_in_vain_leaves_the_queue_and_is_told_that_postgresql_does_not_answer(make_cache):
    patient = make_cache(POOL_SIZE=1, TIMEOUT_SECONDS=20)
    hasty = make_cache(POOL_SIZE=1, TIMEOUT_SECONDS=0.1, ON_ERROR="raise")
    patient.set("key", 1)
    with contextlib.ExitStack() as threads, row_locked(patient, "key"):
        threads.enter_context(in_the_background(patient.set, "key", 2))
        wait_until(statements_of_the_cache)
        for call in (lambda: hasty.get("other"), lambda: asyncio.run(hasty.aget("other"))):
            with pytest.raises(CacheUnavailableError, match="PostgreSQL did not answer the calls"):
                call()
            assert not hasty.store.pool._waiting
    assert patient.get("key") == 2


def test_who_waited_in_vain_behind_others_is_told_to_raise_the_number_of_connections(make_cache):
    patient = make_cache(POOL_SIZE=1, TIMEOUT_SECONDS=20)
    hasty = make_cache(POOL_SIZE=1, TIMEOUT_SECONDS=0.5, ON_ERROR="raise")
    patient.set("key", 1)
    pool, errors = patient.store.pool, []

    def ask():
        with pytest.raises(CacheUnavailableError) as raised:
            hasty.get("other")
        errors.append(str(raised.value))

    with contextlib.ExitStack() as threads, row_locked(patient, "key"):
        link = pool._idle.pop()
        threads.enter_context(in_the_background(patient.set, "key", 2))
        wait_until(lambda: len(pool._waiting) == 1)
        threads.enter_context(in_the_background(ask))
        wait_until(lambda: len(pool._waiting) == 2)
        pool._give(link)
        wait_until(lambda: errors)
    assert "raise POOL_SIZE" in errors[0]


def test_a_connection_that_nobody_refers_to_any_more_leaves_its_place(make_cache):
    cache = make_cache(POOL_SIZE=11, TIMEOUT_SECONDS=0.5, ON_ERROR="raise")
    pool = cache.store.pool
    pool.size = 1
    cache.set("key", 1)
    pool._idle.clear()  # as an exception between two steps does: nobody has it, nobody gave it back
    gc.collect()
    assert cache.get("key") == 1


def test_a_task_whose_loop_was_closed_in_the_middle_leaves_its_connection(make_cache):
    cache = make_cache(POOL_SIZE=12, TIMEOUT_SECONDS=20, ON_ERROR="raise")
    cache.set("key", 1)
    with row_locked(cache, "key"):
        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(under_way(cache.aset("key", 2)))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        assert len(cache.store.pool._links) == 1
        del task, loop
        gc.collect()
        assert not cache.store.pool._links
        assert cache.get("key") == 1


def test_what_the_garbage_collector_ends_waits_for_no_lock_of_its_own_thread(make_cache):
    cache = make_cache(POOL_SIZE=18, TIMEOUT_SECONDS=20)
    held, wanted = cache.lock("name", timeout=60), cache.lock("name", timeout=60)
    assert held.acquire()
    waiting = wanted._acquire(Attempt(b"holder"), 20)  # as a task that nobody finishes leaves it
    wait = next(waiting)
    while not isinstance(wait, Signal):
        wait = waiting.send(wait.block())
    asking = cache.store.pool.call(*call_of(cache), 20, 20)
    next(asking)

    def collect():
        with cache.store.pool._lock, wakeup.listener_for(cache.store.pool.alias)._lock:
            waiting.close()
            asking.close()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    held.release()


def call_of(cache):
    return cache.store.GET.variants[0], (cache.stored_key("key", None),)


def test_a_cancelled_call_leaves_its_place_to_who_waits_and_writes_all_or_nothing(make_cache):
    cache = make_cache(POOL_SIZE=1, TIMEOUT_SECONDS=20, ON_ERROR="raise")
    before, after = dict.fromkeys("abcd", 1), dict.fromkeys("abcd", 2)
    cache.set_many(before)

    async def cancel():
        writing = await under_way(cache.aset_many(after))
        reading = asyncio.create_task(cache.aget("a"))
        await asyncio.to_thread(wait_until, lambda: cache.store.pool._waiting)
        writing.cancel()
        assert await reading == 1
        with pytest.raises(asyncio.CancelledError):
            await writing

    with row_locked(cache, "c"):
        asyncio.run(cancel())
    wait_until(lambda: not statements_of_the_cache())
    assert cache.get_many("abcd") in (before, after)
    assert len(cache.store.pool._links) == 1


def test_a_fork_in_the_middle_of_a_call_leaves_it_to_the_parent(make_cache):
    cache = make_cache(POOL_SIZE=13, TIMEOUT_SECONDS=20, ON_ERROR="raise")
    cache.set("key", 1)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        with row_locked(cache, "key"):
            writing = loop.run_until_complete(under_way(cache.aset("key", 2)))
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # beside threads
                child = os.fork()
            if child == 0:
                in_the_child(cache, writing)
            assert os.waitpid(child, 0)[1] == 0
        loop.run_until_complete(writing)
        loop.run_until_complete(loop.shutdown_default_executor())
    assert cache.get("key") == 2


def test_a_child_forked_while_a_thread_was_at_the_watches_may_close_one(make_cache):
    listener = wakeup.listener_for(make_cache().store.pool.alias)
    watch, held, done = listener.watch(b"key"), threading.Event(), threading.Event()

    def hold():
        with listener._lock:
            held.set()
            done.wait(20)

    with in_the_background(hold):
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


def in_the_child(cache, writing):
    """The garbage collector may end what the parent had under way."""
    try:
        writing.get_coro().close()
        assert not cache.store.pool._idle
        assert cache.get("key") == 1
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def test_a_migration_that_changes_what_a_statement_returns_costs_no_call(make_cache):
    cache = make_cache(POOL_SIZE=14, ON_ERROR="raise")
    cache.set("key", "value")
    assert cache.get("key") == "value"
    with connection.cursor() as cursor:
        for kind in ("integer", "smallint"):
            cursor.execute(f"ALTER TABLE pgonly_cache ALTER codec TYPE {kind}")
            assert cache.get("key") == "value"
            assert cache.get("key") == "value"
    (link,) = cache.store.pool._idle
    assert link.prepares


def test_a_connection_whose_prepared_statements_are_gone_is_used_nevertheless(make_cache):
    cache = make_cache(POOL_SIZE=17, ON_ERROR="raise")
    cache.set("key", "value")
    for link in cache.store.pool._idle:
        link.pgconn.exec_(b"DEALLOCATE ALL")
    cache.set("key", "other")
    assert cache.get("key") == "other"


def test_the_statement_of_a_call_that_was_given_up_ends_though_it_waits_for_a_lock(make_cache):
    cache = make_cache(POOL_SIZE=15, TIMEOUT_SECONDS=0.3)
    cache.set("key", 1)
    with row_locked(cache, "key"):
        with pytest.raises(CacheUnavailableError, match=r"did not answer within 0\.3 s"):
            cache.set("key", 2)
        wait_until(lambda: not statements_of_the_cache())


def test_a_call_that_waits_for_a_lock_does_not_make_those_fail_that_are_answered(make_cache):
    cache = make_cache(POOL_SIZE=17, TIMEOUT_SECONDS=0.5, ON_ERROR="raise")
    cache.set("key", 1)
    cache.set("other", 2)
    with row_locked(cache, "key"), ThreadPoolExecutor(1) as thread:
        stuck = thread.submit(cache.set, "key", 3)
        while not stuck.done():
            assert cache.get("other") == 2
        with pytest.raises(CacheUnavailableError):
            stuck.result()
        assert cache.get("other") == 2


def test_a_server_that_cannot_notice_gone_clients_is_used_as_it_is(make_cache, monkeypatch):
    refused = "set_config('client_connection_check_interval', 'never', false)"
    monkeypatch.setattr(link_module, "NOTICE_GONE_CLIENTS", refused)
    cache = make_cache(POOL_SIZE=16, ON_ERROR="raise")
    cache.set("key", 1)
    (link,) = cache.store.pool._idle
    assert link.prepares


def test_behind_pgbouncer_in_transaction_mode(transactional_db, any_database, pooler):
    settings = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": pooler}
    connections.settings["bouncer"] = settings
    try:
        wait_until(lambda: answers(pooler, settings["NAME"]))
        cache = PostgresCache("bouncer", {"OPTIONS": {"DATABASE": "bouncer", "ON_ERROR": "raise"}})
        numbers = range(40)

        def work(number):
            cache.set(f"key:{number}", number)
            cache.incr(f"key:{number}")
            assert cache.get_or_set(f"computed:{number}", lambda: number) == number

        threads = [threading.Thread(target=work, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        found = cache.get_many([f"key:{number}" for number in numbers])
        assert found == {f"key:{number}": number + 1 for number in numbers}
        with cache.lock("name", timeout=20):
            start = time.monotonic()
            assert not cache.lock("name").acquire(blocking_timeout=0.3)
            assert time.monotonic() - start < 20
        cache.store.pool.close_idle()
        wakeup.stop_all()
        # All five connections behind it stay as they were: others use them too.
        assert setting_of_each_server(pooler, settings["NAME"], "enable_seqscan") == {"on"}
        assert setting_of_each_server(pooler, settings["NAME"], "client_connection_check_interval") == {"0"}
    finally:
        connections["bouncer"].close()
        del connections["bouncer"], connections.settings["bouncer"]


def setting_of_each_server(port, database, name):
    """What the connections that the pooler keeps to the server have been set to."""
    with contextlib.ExitStack() as stack:
        found = set()
        for _ in range(5):  # a transaction each, so that each gets its own
            raw = stack.enter_context(through(port, database))
            found.add(raw.execute("SELECT current_setting(%s)", [name]).fetchone()[0])
        return found


def answers(port, database):
    with contextlib.suppress(psycopg.Error):
        through(port, database).close()
        return True


def through(port, database):
    return psycopg.connect(host="127.0.0.1", port=port, dbname=database, user="postgres", connect_timeout=2)
