"""Connections: none before they are needed, few, and good after a fork, a pooler and a dropped database."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection, connections

from pgonly_django.cache import PostgresCache
from pgonly_django.cache.lock import Attempt
from pgonly_django.cache.statement import CHANNEL
from pgonly_django.database import connection as connection_module
from pgonly_django.database import listener
from pgonly_django.database import pool as pool_module
from pgonly_django.database.connect import connection_params
from pgonly_django.database.operation import Signal, run
from pgonly_django.database.statement import Statement, integer
from pgonly_django.exceptions import CacheError, CacheUnavailableError
from tests.waiting import wait_for


def test_nothing_is_opened_before_the_first_call(own):
    cache = own.cache()
    assert not own.pids()
    cache.get("key")
    assert len(own.pids()) == 1


def test_many_threads_share_few_connections(own):
    cache = own.cache(POOL_SIZE=3, TIMEOUT_SECONDS=20)
    answers, seen = [], []

    def work(number):
        for turn in range(50):
            cache.set(f"{number}:{turn}", turn)
            answers.append(cache.get(f"{number}:{turn}") == turn)

    with ThreadPoolExecutor(16) as threads:
        working = [threads.submit(work, number) for number in range(16)]
        while not all(each.done() for each in working):
            seen.append(len(own.pids()))
        for each in working:
            each.result()
    assert len(answers) == 800
    assert all(answers)
    assert max(seen) == 3


def test_threads_that_try_again_together_after_a_failure_see_no_error_but_the_databases(
    make_own, monkeypatch
):
    monkeypatch.setattr(pool_module, "FAIL_FAST_SECONDS", 0)
    cache = make_own(HOST="127.0.0.1", PORT="1").cache(ON_ERROR="ignore")
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads meet between any two steps
    try:
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(cache.get, ["key"] * 2000)) == {None}
    finally:
        sys.setswitchinterval(usual)


def test_a_large_value_makes_a_unix_sockets_send_buffer_larger(transactional_db):
    params = connection_params("default", application_name="large values")
    if not str(params.get("host", "")).startswith("/"):
        pytest.skip("these tests run over TCP, whose buffer grows by itself")
    count = Statement("SELECT octet_length(%(value)s::bytea)")
    with contextlib.closing(connection_module.Connection()) as connection:
        run(connection.connect([psycopg.conninfo.make_conninfo(**params).encode()], 20, None))
        usual = send_buffer(connection)
        assert integer(run(connection.call(count, [bytes(1_000_000)], 20)).get_value(0, 0)) == 1_000_000
        assert send_buffer(connection) == usual
        assert integer(run(connection.call(count, [bytes(5_000_000)], 20)).get_value(0, 0)) == 5_000_000
        assert send_buffer(connection) > usual


def send_buffer(connection):
    with socket.fromfd(connection.pgconn.socket, socket.AF_UNIX, socket.SOCK_STREAM) as same:
        return same.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_a_connection_the_server_closed_is_replaced_before_it_is_used(own):
    cache = own.cache()
    cache.set("number", 1)
    (pid,) = own.pids()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    wait_for(lambda: not is_running(pid))
    assert cache.incr("number") == 2


def is_running(pid):
    """Whether the server's process is there; while it is, its goodbye may still be on the way."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def test_django_may_create_and_drop_databases_while_the_cache_has_connections(own):
    cache = own.cache()
    cache.set("key", 1)
    lock = cache.lock("name", timeout=60)
    lock.acquire()
    assert not cache.lock("name").acquire(blocking_timeout=0.1)  # starts the listening connection too
    assert own.pids()
    with connection._nodb_cursor():
        wait_for(lambda: not own.pids())
    assert cache.get("key") == 1
    lock.release()


def test_it_follows_djangos_connection_to_another_database(own):
    cache, lenient = own.cache(), own.cache(ON_ERROR=None)
    cache.set("key", 1)
    name = connections.settings[own.name]["NAME"]
    connections.settings[own.name]["NAME"] = "postgres"
    assert not lenient.has_key("key")
    assert own.pids("datname = 'postgres'") == own.pids() != []
    connections.settings[own.name]["NAME"] = name
    assert cache.get("key") == 1


def test_it_assumes_the_role_that_djangos_connection_assumes(own):
    role = f"the app {os.getpid()}"  # roles are the whole server's
    connections.settings[own.name]["OPTIONS"]["assume_role"] = role
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE ROLE "{role}" NOLOGIN')
    try:
        assert own.cache(ON_ERROR=None).get("key", "default") == "default"  # this role may not read the table
        with pytest.raises(CacheError, match="permission denied"):
            own.cache().get("key")
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f'DROP ROLE "{role}"')


@contextlib.contextmanager
def row_locked(cache, *keys):
    """Writes of these keys wait, until it ends."""
    stored = [cache.stored_key(key, None).decode() for key in keys]
    with psycopg.connect(**connection_params("default", application_name="holding")) as holding:
        holding.execute("SELECT FROM pgonly_cache WHERE key = ANY(%s) FOR UPDATE", [stored])
        yield


async def under_way(own, coroutine):
    """Its task, once PostgreSQL is at it."""
    task = asyncio.create_task(coroutine)
    await asyncio.to_thread(wait_for, own.is_busy)
    return task


@contextlib.contextmanager
def in_the_background(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)


def test_who_waited_in_vain_leaves_the_queue_and_is_told_that_postgresql_does_not_answer(own):
    patient, hasty = own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=20), own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=0.1)
    patient.set("key", 1)
    with contextlib.ExitStack() as threads, row_locked(patient, "key"):
        threads.enter_context(in_the_background(patient.set, "key", 2))
        wait_for(own.is_busy)
        for call in (lambda: hasty.get("other"), lambda: asyncio.run(hasty.aget("other"))):
            with pytest.raises(CacheUnavailableError, match="PostgreSQL did not answer the calls"):
                call()
    assert patient.get("key") == 2


def test_who_waited_in_vain_behind_others_is_told_to_raise_the_number_of_connections(own):
    patient, hasty = own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=20), own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=0.5)
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
    cache = own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=20)
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
    cache = own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=20)
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
    cache = own.cache(TIMEOUT_SECONDS=20)
    held, wanted = cache.lock("name", timeout=60), cache.lock("name", timeout=60)
    assert held.acquire()
    waiting = wanted._acquire(Attempt(b"holder"), 20)  # as a task that nobody finishes leaves it
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
    cache = own.cache(POOL_SIZE=1, TIMEOUT_SECONDS=20)
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


def test_a_fork_in_the_middle_of_a_call_leaves_it_to_the_parent_and_says_no_goodbye(own):
    cache = own.cache(POOL_SIZE=2, TIMEOUT_SECONDS=20)
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


def test_a_migration_that_changes_what_a_statement_returns_costs_no_call(own):
    cache = own.cache()
    cache.set("key", "value")
    assert cache.get("key") == "value"
    before = own.pids()
    with connection.cursor() as cursor:
        for kind in ("integer", "smallint"):
            cursor.execute(f"ALTER TABLE pgonly_cache ALTER codec TYPE {kind}")
            assert cache.get("key") == "value"
            assert cache.get("key") == "value"
    assert own.pids() == before
    assert is_prepared(cache)


PREPARED = Statement("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'pgonly%'")


def is_prepared(cache):
    """Whether its connection prepares statements."""
    return integer(run(cache.store.call(PREPARED)).get_value(0, 0)) > 0


def test_a_connection_whose_prepared_statements_are_gone_is_used_nevertheless(own):
    cache = own.cache()
    cache.set("key", "value")
    run(cache.store.call(Statement("DEALLOCATE ALL")))
    cache.set("key", "other")
    assert cache.get("key") == "other"
    assert len(own.pids()) == 1


def test_a_server_that_cannot_notice_gone_clients_is_used_as_it_is(own, monkeypatch):
    """As on Windows."""
    refused = {"client_connection_check_interval": "never"}
    monkeypatch.setattr(connection_module, "NOTICE_GONE_CLIENTS", refused)
    cache = own.cache()
    cache.set("key", 1)
    assert is_prepared(cache)


def test_the_statement_of_a_call_that_was_given_up_ends_though_it_waits_for_a_lock(own):
    cache = own.cache(TIMEOUT_SECONDS=0.3)
    cache.set("key", 1)
    with row_locked(cache, "key"):
        with pytest.raises(CacheUnavailableError, match=r"did not answer within 0\.3 s"):
            cache.set("key", 2)
        wait_for(lambda: not own.is_busy())


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


def test_where_no_more_connections_are_to_be_had_the_calls_share_those_there_are(make_own):
    with role_for_three_connections() as role:
        own = make_own(USER=role, PASSWORD="secret")
        cache = own.cache(TIMEOUT_SECONDS=20)

        def work(number):
            for turn in range(100):
                cache.set(f"{number}:{turn}", turn)

        with ThreadPoolExecutor(8) as threads:
            for result in [threads.submit(work, number) for number in range(8)]:
                result.result(60)
        assert len(cache.keys("*")) == 800
        assert 1 <= len(own.pids()) <= 3


@contextlib.contextmanager
def role_for_three_connections():
    name = f"limited_{os.getpid()}"  # roles are the whole server's
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' CONNECTION LIMIT 3")
        cursor.execute(f"GRANT ALL ON pgonly_cache, pgonly_cache_usage TO {name}")
        try:
            yield name
        finally:
            with connection._nodb_cursor():  # all let go
                pass
            cursor.execute(f"DROP OWNED BY {name}")
            cursor.execute(f"DROP ROLE {name}")


def test_a_process_that_gets_no_connection_at_all_says_why(make_own):
    with role_for_three_connections() as role, contextlib.ExitStack() as others:
        own = make_own(USER=role, PASSWORD="secret")
        params = connection_params(own.name, application_name="others")
        for _ in range(3):
            others.enter_context(psycopg.connect(**params))
        with pytest.raises(CacheUnavailableError, match="too many connections for role"):
            own.cache().set("key", 1)


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


def test_what_the_project_says_of_isolation_is_not_for_the_cache(make_own):
    own = make_own("-c default_transaction_isolation=repeatable\\ read")
    cache = own.cache(TIMEOUT_SECONDS=20)
    cache.set("key", 1)
    with contextlib.closing(connection.copy()) as other, ThreadPoolExecutor(1) as thread:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("UPDATE pgonly_cache SET number = 2 WHERE key LIKE %s", [f"{own.name}:%"])
        setting = thread.submit(cache.set, "key", 3)
        wait_for(own.is_busy)
        other.commit()
        setting.result(20)
    assert cache.get("key") == 3


def test_what_the_project_says_of_timeouts_is_not_for_the_cache(make_own):
    own = make_own("-c statement_timeout=100 -c lock_timeout=100")
    cache = own.cache(TIMEOUT_SECONDS=20)
    cache.set("key", 1)
    with ThreadPoolExecutor(1) as thread:
        with row_locked(cache, "key"):
            setting = thread.submit(cache.set, "key", 2)
            waits = "state = 'active' AND clock_timestamp() - query_start > interval '0.5 s'"
            wait_for(lambda: own.pids(waits) or setting.done())
        setting.result(20)
    assert cache.get("key") == 2


def test_behind_pgbouncer_in_transaction_mode(transactional_db, any_database, pooler):
    settings = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": pooler}
    connections.settings["bouncer"] = settings
    try:
        wait_for(lambda: answers(pooler, settings["NAME"]))
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
        listener.stop_all()
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
