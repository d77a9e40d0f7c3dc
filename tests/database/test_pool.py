"""Connections: none before they are needed, few, and good after a database was dropped."""

from __future__ import annotations

import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection, connections

from pgonly_django.cache.eviction import cache_name
from pgonly_django.conf import schema
from pgonly_django.database import pool as pool_module
from pgonly_django.database.connect import connection_params
from pgonly_django.database.operation import run
from pgonly_django.database.pool import PoolUser, pool_for
from pgonly_django.database.statement import Statement
from pgonly_django.database.testcase import Advice
from pgonly_django.exceptions import (
    CacheUnavailableError,
    DatabaseCallError,
    DatabaseUnansweredError,
    DatabaseUnavailableError,
    UnansweredError,
)
from pgonly_django.models import CacheUsage
from tests.database.calls import lose, row_locked
from tests.sql import sql
from tests.waiting import wait_for


def test_nothing_is_opened_before_the_first_call(own):
    cache = own.cache()
    assert not own.pids()
    cache.get("key")
    assert len(own.pids()) == 1


def test_many_threads_share_few_connections(own):
    cache = own.cache(POOL_SIZE=3)
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


@pytest.mark.slow
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


def test_where_no_more_connections_are_to_be_had_the_calls_share_those_there_are(make_own):
    with role_for_three_connections() as role:
        own = make_own(USER=role, PASSWORD="secret")
        cache = own.cache()

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
    sql(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' CONNECTION LIMIT 3")
    sql(f"GRANT ALL ON pgonly_cache, pgonly_cache_usage TO {name}")
    if schema():
        sql(f'GRANT USAGE ON SCHEMA "{schema()}" TO {name}')
    try:
        yield name
    finally:
        with connection._nodb_cursor():  # all let go
            pass
        sql(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_process_that_gets_no_connection_at_all_says_why(make_own):
    with role_for_three_connections() as role, contextlib.ExitStack() as others:
        own = make_own(USER=role, PASSWORD="secret")
        params = connection_params(own.name, application_name="others")
        for _ in range(3):
            others.enter_context(psycopg.connect(**params))
        with pytest.raises(CacheUnavailableError, match="too many connections for role"):
            own.cache().set("key", 1)


LIMITS = PoolUser(
    "limits",
    "LIMITS_POOL_SIZE",
    (DatabaseCallError, DatabaseUnavailableError, DatabaseUnansweredError),
    Advice("", ""),
)


def test_another_user_than_the_cache_has_its_own_connections_and_errors(own):
    own.cache().set("key", 1)
    pool = pool_for(own.name, 2, LIMITS)
    quotient = Statement("SELECT 6 / %(number)s::int")
    assert run(pool.call(quotient, quotient.values({"number": 2}), 20, 20)).get_value(0, 0)[-1] == 3
    assert len(own.pids()) == 2
    with pytest.raises(DatabaseCallError, match="division by zero") as caught:
        run(pool.call(quotient, quotient.values({"number": 0}), 20, 20))
    assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)


def test_another_user_than_the_cache_is_told_that_there_is_no_database(make_own):
    pool = pool_for(make_own(HOST="127.0.0.1", PORT="1").name, 2, LIMITS)
    with pytest.raises(DatabaseUnavailableError, match="could not be reached"):
        run(pool.call(Statement("SELECT 1"), [], 20, 20))


def is_waiting(own):
    return own.pids("wait_event_type = 'Lock'")


def end(pid):
    sql("SELECT pg_terminate_backend(%s)", pid)


CALLS = {
    "incr": (lambda cache: cache.incr("key"), 2),
    "set": (lambda cache: cache.set("key", 2), None),
    "set_many": (lambda cache: cache.set_many({"key": 2}), []),
    "delete": (lambda cache: cache.delete("key"), True),
    "touch": (lambda cache: cache.touch("key"), True),
}


@pytest.mark.parametrize(("call", "answer"), CALLS.values(), ids=CALLS)
def test_a_call_whose_connection_postgresql_ends_is_done_once_on_another_one(own, call, answer):
    cache = own.cache()
    cache.set_many({"key": 1, "other": 1})
    with ThreadPoolExecutor(1) as threads:
        with row_locked(cache, "key"):
            calling = threads.submit(call, cache)
            (pid,) = wait_for(lambda: is_waiting(own))
            end(pid)
            assert cache.get("other") == 1
            wait_for(lambda: is_waiting(own) not in ([], [pid]))
        assert calling.result(20) == answer


def test_a_lost_connection_fails_the_write_that_was_under_way_and_no_other_call(own):
    cache = own.cache()
    cache.set_many({"key": 1, "other": 1})
    with ThreadPoolExecutor(1) as threads, row_locked(cache, "key"):
        writing = threads.submit(cache.incr, "key")
        wait_for(lambda: is_waiting(own))
        lose(cache)
        with pytest.raises(UnansweredError):
            writing.result(20)
        assert cache.incr("other") == 2
        assert cache.get("key") == 1


def test_a_read_whose_connection_is_lost_is_done_on_another_one(own, other):
    cache = own.cache()
    cache.set("key", 1)
    with ThreadPoolExecutor(1) as threads:
        with other.transaction():
            other.execute("LOCK TABLE pgonly_cache IN ACCESS EXCLUSIVE MODE")
            reading = threads.submit(cache.get, "key")
            (pid,) = wait_for(lambda: is_waiting(own))
            lose(cache)
            wait_for(lambda: set(is_waiting(own)) - {pid})
        assert reading.result(20) == 1


def test_a_walk_over_many_entries_that_somebody_ends_is_not_begun_again(own):
    cache = own.cache()
    cache.set("key", 1)
    with ThreadPoolExecutor(1) as threads, row_locked(cache, "key"):
        deleting = threads.submit(cache.delete_pattern, "*")
        (pid,) = wait_for(lambda: is_waiting(own))
        end(pid)
        with pytest.raises(UnansweredError):
            deleting.result(20)
        assert not is_waiting(own)


@pytest.mark.slow
def test_connections_that_no_call_uses_are_given_back(own, monkeypatch):
    monkeypatch.setattr(pool_module, "_closer", None)  # there may be one that sleeps for long
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.4)
    cache = own.cache(POOL_SIZE=3)
    cache.set_many({"key": 1, "other": 1})
    with ThreadPoolExecutor(1) as threads, row_locked(cache, "key"):
        threads.submit(cache.incr, "key")
        wait_for(lambda: is_waiting(own))
        assert cache.get("other") == 1
        assert len(own.pids()) == 2
    wait_for(lambda: not own.pids())
    assert cache.get("key") == 2


def test_a_connection_in_use_is_not_given_back_as_unused(own, monkeypatch):
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.01)
    cache = own.cache()
    cache.set_many({"key": 1, "other": 1})
    with ThreadPoolExecutor(1) as threads:
        with row_locked(cache, "key"):
            writing = threads.submit(cache.incr, "key")
            wait_for(lambda: is_waiting(own))
            cache.store.pool.close_unused()
        assert writing.result(20) == 2
    wait_for(lambda: cache.store.pool.close_unused() or not own.pids())


@pytest.mark.slow
def test_what_was_counted_is_written_before_the_last_connection_is_given_back(own, monkeypatch):
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.01)
    cache = own.cache()
    cache.get("missing")
    cache.store.pool.close_unused()
    name = cache_name(False, cache.store.namespace)
    wait_for(lambda: CacheUsage.objects.filter(name=name, misses=1).exists())
    wait_for(lambda: cache.store.pool.close_unused() or not own.pids())
