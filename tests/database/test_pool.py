"""Connections: none before they are needed, few, and good after a database was dropped."""

from __future__ import annotations

import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection, connections

from pgonly_django.conf import schema
from pgonly_django.database import pool as pool_module
from pgonly_django.database.connect import connection_params
from pgonly_django.database.operation import run
from pgonly_django.database.pool import PoolUser, pool_for
from pgonly_django.database.statement import Statement
from pgonly_django.database.testcase import Advice
from pgonly_django.exceptions import CacheUnavailableError, DatabaseCallError, DatabaseUnavailableError
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
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' CONNECTION LIMIT 3")
        cursor.execute(f"GRANT ALL ON pgonly_cache, pgonly_cache_usage TO {name}")
        if schema():
            cursor.execute(f'GRANT USAGE ON SCHEMA "{schema()}" TO {name}')
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


LIMITS = PoolUser("limits", "LIMITS_POOL_SIZE", lambda error: error, Advice("", ""))


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
