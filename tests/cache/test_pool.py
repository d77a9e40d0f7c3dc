"""Connections: none before they are needed, few, and good after a fork, a pooler and a dropped database."""

from __future__ import annotations

import contextlib
import threading
import time

import psycopg
import pytest
from django.db import connection, connections

from pgonly_django.cache import PostgresCache, wakeup
from pgonly_django.exceptions import CacheError
from tests.cache.conftest import wait_until


def test_nothing_is_opened_before_the_first_call(make_cache):
    cache = make_cache(POOL_SIZE=7)
    assert cache.store.pool._open == 0
    cache.get("key")
    assert cache.store.pool._open == 1


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
    assert cache.store.pool._open <= 3


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
        assert cache.store.pool._open == 0
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
    with connection.cursor() as cursor:
        cursor.execute('CREATE ROLE "the app" NOLOGIN')
    connection.settings_dict["OPTIONS"]["assume_role"] = "the app"
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
            cursor.execute('DROP ROLE "the app"')


def test_behind_pgbouncer_in_transaction_mode(transactional_db, pooler):
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
