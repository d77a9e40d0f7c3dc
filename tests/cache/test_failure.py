"""A database that is stopped, frozen, restarted or full costs a request little, and the cache comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from django.db import connections
from django.http import HttpResponse
from django.views.decorators.cache import cache_page

from pgonly_django.cache import PostgresCache
from pgonly_django.cache.single_flight import SingleFlight
from pgonly_django.database.embedded import Server
from pgonly_django.database.operation import run
from pgonly_django.exceptions import CacheError, CacheUnavailableError, UnansweredError
from pgonly_django.models import CacheEntry, DurableCacheEntry
from pgonly_django.models.cache_entry import CacheLock
from tests import in_memory
from tests.elsewhere import missing
from tests.outages import frozen
from tests.waiting import wait_for

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server():
    # Not pytest's own temporary folder: every session that starts closes that to PostgreSQL's account.
    with tempfile.TemporaryDirectory(
        prefix="pgonly-", dir=in_memory.folder(), ignore_cleanup_errors=True
    ) as folder:
        server = Server(Path(folder) / "data", options=("max_connections=20",))
        server.start()
        yield server
        server.stop("immediate")


@pytest.fixture
def aside(server, django_db_blocker):
    """The alias "aside": a migrated database in a server that tests may stop."""
    server.start()
    settings = {**connections.settings["default"], "HOST": str(server.socket_directory), "NAME": "postgres"}
    settings |= {"USER": "postgres", "PORT": "", "PASSWORD": ""}
    point_aside_to(settings)
    with django_db_blocker.unblock():
        from django.core.management import call_command

        call_command("migrate", database="aside", verbosity=0)
        cache = with_options()
        cache.clear()
        yield cache
        point_aside_to(settings)
    del connections.settings["aside"]
    from pgonly_django.database import pool

    for key in [key for key in pool._pools if key[0] == "aside"]:
        pool._pools.pop(key).close_idle()


def point_aside_to(settings):
    connections.settings["aside"] = settings
    if hasattr(connections._connections, "aside"):
        connections["aside"].close()
        del connections["aside"]


def with_options(**options):
    return PostgresCache("aside", {"OPTIONS": {"DATABASE": "aside", **options}})


def test_with_the_database_stopped_reads_miss_deletes_say_no_and_writes_raise(aside, server, caplog):
    aside.set("key", "value")
    server.stop()
    with caplog.at_level(logging.WARNING, "pgonly_django.cache"):
        assert aside.get("key", "default") == "default"
    assert "did without the database" in caplog.text
    assert aside.get_many(["key"]) == {}
    assert not aside.has_key("key")
    assert aside.delete("key") is False
    assert aside.delete_many(["key"]) == 0
    assert aside.delete_pattern("*") == 0
    assert aside.delete_tags("tag") == 0
    assert aside.keys("*") == []
    assert aside.clear() is None
    for write in (
        lambda: aside.set("key", 1),
        lambda: aside.add("key", 1),
        lambda: aside.touch("key"),
        lambda: aside.incr("key"),
        lambda: aside.set_many({"key": 1}),
    ):
        with pytest.raises(CacheUnavailableError):
            write()


def test_get_or_set_gives_the_value_without_a_database(aside, server):
    server.stop()
    assert aside.get_or_set("key", lambda: 42) == 42


@pytest.mark.parametrize("on_error", [None, "ignore", "raise"])
@pytest.mark.parametrize(("end", "expected"), [(lambda: "paid for", "paid for"), (lambda: 1 / 0, "next")])
def test_what_was_computed_while_the_database_was_away_is_returned_and_stored_when_it_is_back(
    aside, server, end, expected, on_error
):
    """And what failed meanwhile is free to be computed: nobody waits for the end of lock_timeout."""
    cache, key = with_options(DURABLE=True, ON_ERROR=on_error), f"{expected}, {on_error}"

    def compute():
        server.stop()
        return end()

    with contextlib.suppress(ZeroDivisionError):
        assert cache.get_or_set(key, compute, lock_timeout=600) == "paid for"
    server.start()
    connections["aside"].close()
    wait_for(lambda: not DurableCacheEntry.objects.using("aside").filter(claim__isnull=False).exists())
    assert cache.get_or_set(key, lambda: "next", lock_timeout=600) == expected


def test_what_postgresql_refuses_when_it_is_back_keeps_nobody_waiting(aside, server):
    def compute():
        with connections["aside"].cursor() as cursor:
            cursor.execute(
                "ALTER TABLE pgonly_cache ADD CONSTRAINT tests_none CHECK (value IS NULL) NOT VALID"
            )
        connections["aside"].close()
        server.stop()
        return "paid for"

    assert aside.get_or_set("refused later", compute, lock_timeout=600) == "paid for"
    server.start()
    try:
        claimed = CacheEntry.objects.using("aside").filter(claim__isnull=False)
        wait_for(lambda: not claimed.exists(), what="the claim's end")
    finally:
        with connections["aside"].cursor() as cursor:
            cursor.execute("ALTER TABLE pgonly_cache DROP CONSTRAINT tests_none")


def listening(server):
    with psycopg.connect(server.url()) as connection:
        return connection.execute("SELECT pid FROM pg_stat_activity WHERE query ~ '^LISTEN'").fetchall()


def test_of_those_who_wait_none_pays_a_second_time_where_errors_are_raised(aside, server):
    cache, computing, go_on, answers = (
        with_options(ON_ERROR="raise"),
        threading.Event(),
        threading.Event(),
        [],
    )

    def compute():
        computing.set()
        assert go_on.wait(30)
        return "paid for"

    def wait_in_vain():
        with pytest.raises(CacheUnavailableError):
            cache.get_or_set("paid once", lambda: answers.append("paid again"), lock_timeout=600)
        answers.append("raised")

    payer = threading.Thread(target=lambda: answers.append(cache.get_or_set("paid once", compute)))
    payer.start()
    assert computing.wait(30)
    waiter = threading.Thread(target=wait_in_vain)
    waiter.start()
    wait_for(lambda: listening(server), what="the other to wait")
    server.stop("immediate")
    waiter.join(30)
    assert answers == ["raised"]
    go_on.set()
    payer.join(30)
    assert answers == ["raised", "paid for"]


def test_an_async_caller_gets_what_it_has_paid_for(aside, server):
    cache = with_options(ON_ERROR="raise")

    async def compute():
        await asyncio.to_thread(server.stop)
        return "paid for"

    assert asyncio.run(cache.aget_or_set("async", compute)) == "paid for"


def test_a_claim_that_a_frozen_server_reads_much_later_keeps_nobody_waiting(aside, server, monkeypatch):
    """Later than a claim is looked for after PostgreSQL has answered."""
    monkeypatch.setattr("pgonly_django.database.background.UNCONFIRMED_SECONDS", 1.0)
    cache = with_options(TIMEOUT_SECONDS=0.5)
    key = cache.stored_key("frozen", None)
    operation = SingleFlight(cache.store, key, lambda: 1, 60, 0, 600, (), strict=True)._claim()
    cache.get_or_set("so that the statement is prepared", 1)
    with frozen(server), pytest.raises(UnansweredError):
        try:
            run(operation)
        finally:
            time.sleep(3)
    entries = CacheEntry.objects.using("aside").filter(key=key.decode())
    wait_for(entries.filter(claim=None).exists, what="the claim to come and to go")


def test_a_lock_that_a_frozen_server_takes_after_its_lease_is_given_back(aside, server):
    cache = with_options(TIMEOUT_SECONDS=0.5)
    with cache.lock("so that the statement is prepared"):
        pass
    with frozen(server), pytest.raises(UnansweredError):
        try:
            cache.lock("frozen", timeout=1.0).acquire(blocking=False)
        finally:
            time.sleep(3)
    given_back = CacheLock.objects.using("aside").filter(name__endswith="frozen", refused__isnull=False)
    wait_for(given_back.exists, what="it to be given back")


def test_on_error_ignore_lets_writes_pass_and_raise_lets_nothing_pass(aside, server):
    ignoring, strict = with_options(ON_ERROR="ignore"), with_options(ON_ERROR="raise")
    server.stop()
    assert ignoring.set("key", 1) is None
    assert ignoring.add("key", 1) is False
    assert ignoring.set_many({"key": 1}) == ["key"]
    calls = (
        lambda: strict.get("key"),
        lambda: strict.delete("key"),
        lambda: strict.get_or_set("key", pytest.fail),
    )
    for call in (*calls, strict.clear):
        with pytest.raises(CacheUnavailableError):
            call()


def test_a_page_under_djangos_cache_middleware_does_without_it_where_errors_are_ignored(
    aside, server, settings, rf
):
    ours = {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "aside"}
    settings.CACHES = {
        "default": {**ours, "OPTIONS": {"DATABASE": "aside"}},
        "ignoring": {**ours, "OPTIONS": {"DATABASE": "aside", "ON_ERROR": "ignore"}},
    }

    def page(request):
        return HttpResponse("the page")

    server.stop()
    assert cache_page(60, cache="ignoring")(page)(rf.get("/")).text == "the page"
    with pytest.raises(CacheUnavailableError):
        cache_page(60)(page)(rf.get("/"))


def test_after_a_restart_the_same_process_uses_it_again_without_a_failed_call(aside, server):
    aside.set("key", "value")
    server.restart()
    assert aside.add("other", 1)
    assert aside.incr("other") == 2


def test_after_a_crash_of_the_server_it_is_empty_and_works(aside, server):
    aside.set("key", "value")
    with_options(DURABLE=True).set("key", "kept")
    server.restart("immediate")
    assert aside.get("key") is None
    assert with_options(DURABLE=True).get("key") == "kept"
    aside.set("key", "new")
    assert aside.get("key") == "new"


def test_while_it_is_down_calls_fail_at_once_and_a_second_later_it_is_tried_again(aside):
    settings = connections.settings["aside"]
    with hanging_up() as (port, tried):
        point_aside_to({**settings, "HOST": "127.0.0.1", "PORT": port})
        cache = with_options(POOL_SIZE=27, TIMEOUT_SECONDS=20)
        for _ in range(100):
            assert cache.get("key") is None
        assert len(tried) == 1
        point_aside_to(settings)
    wait_for(lambda: cache.get_or_set("probe", lambda: 1) and cache.get("probe") == 1)


@contextlib.contextmanager
def hanging_up():
    """A port that hangs up on everybody, and the list of those who tried."""
    tried = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):  # closed: the test is over
                while True:
                    caller, address = server.accept()
                    tried.append(address)
                    caller.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], tried
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_database_that_does_not_answer_costs_no_more_than_its_timeout(aside):
    with silent_host() as port:
        settings = {**connections.settings["aside"], "HOST": "127.0.0.1", "PORT": port}
        point_aside_to(settings)
        cache = with_options(TIMEOUT_SECONDS=0.2, POOL_SIZE=3)
        start = time.monotonic()
        assert cache.get("key") is None
        assert time.monotonic() - start < 5
        with pytest.raises(CacheUnavailableError):
            asyncio.run(cache.aset("key", 1))


@contextlib.contextmanager
def silent_host():
    """A port that takes connections and never says anything."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(20)
        yield silent.getsockname()[1]


def test_of_several_hosts_one_that_is_silent_and_one_that_refuses_do_not_hide_the_good_one(aside):
    with silent_host() as silent, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refusing = unused.getsockname()[1]
        settings = connections.settings["aside"]
        hosts = f"127.0.0.1,127.0.0.1,{settings['HOST']}"
        point_aside_to({**settings, "HOST": hosts, "PORT": f"{silent},{refusing},5432"})
        cache = with_options(ON_ERROR="raise", POOL_SIZE=21)
        start = time.monotonic()
        cache.set("key", 1)
        assert time.monotonic() - start < 5
        asyncio.run(cache.aset("key", 2))
        assert cache.get("key") == 2


def test_when_every_host_fails_the_error_names_all_reasons_within_the_timeout(aside):
    with silent_host() as silent, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        ports = f"{silent},{unused.getsockname()[1]}"
        point_aside_to({**connections.settings["aside"], "HOST": "127.0.0.1,127.0.0.1", "PORT": ports})
        cache = with_options(ON_ERROR="raise", POOL_SIZE=22, TIMEOUT_SECONDS=0.4)
        start = time.monotonic()
        with pytest.raises(CacheUnavailableError, match=r"(?s)did not answer within 0.2 s.*refused"):
            cache.get("key")
        assert time.monotonic() - start < 5


def test_the_standby_or_the_primary_is_chosen_among_the_hosts(aside):
    settings = connections.settings["aside"]
    point_aside_to({**settings, "OPTIONS": {"target_session_attrs": "prefer-standby"}})
    with_options(ON_ERROR="raise", POOL_SIZE=23).set("key", 1)  # there is no standby
    point_aside_to({**settings, "OPTIONS": {"target_session_attrs": "standby"}})
    with pytest.raises(CacheUnavailableError, match="not in hot standby mode"):
        with_options(ON_ERROR="raise", POOL_SIZE=24).set("key", 1)


def test_while_a_name_is_looked_up_the_event_loop_goes_on(aside, monkeypatch):
    looked_up, loop_goes_on = threading.Event(), threading.Event()

    def look_up(*_, **__):
        looked_up.set()
        assert loop_goes_on.wait(20)
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    point_aside_to({**connections.settings["aside"], "HOST": "db.example", "PORT": 5432})
    cache = with_options(ON_ERROR="raise", POOL_SIZE=25, TIMEOUT_SECONDS=20)

    async def call():
        task = asyncio.create_task(cache.aget("key"))
        assert await asyncio.to_thread(looked_up.wait, 20)
        loop_goes_on.set()
        await task

    with pytest.raises(CacheUnavailableError, match=r"db\.example.*no such host"):
        asyncio.run(asyncio.wait_for(call(), 20))


@pytest.mark.parametrize("under_asyncio", [True, False])
def test_a_name_server_that_does_not_answer_is_given_up_in_time_and_the_next_host_is_tried(
    aside, monkeypatch, under_asyncio
):
    settings = connections.settings["aside"]
    with silent_name_server(monkeypatch):
        point_aside_to({**settings, "HOST": f"db.example,{settings['HOST']}", "PORT": "5432,5432"})
        cache = with_options(ON_ERROR="raise", POOL_SIZE=30 + under_asyncio, TIMEOUT_SECONDS=0.5)
        if under_asyncio:
            asyncio.run(cache.aset("key", 1))
        else:
            cache.set("key", 1)
        assert cache.get("key") == 1


@contextlib.contextmanager
def silent_name_server(monkeypatch):
    give_up = threading.Event()

    def look_up(*_, **__):
        give_up.wait(20)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        yield
    finally:
        give_up.set()


def test_a_server_that_froze_in_the_middle_is_given_up_and_used_again_when_it_thaws(aside, server):
    cache = with_options(TIMEOUT_SECONDS=0.3, ON_ERROR="raise")
    cache.set("key", "value")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgonly cache'"
        pids = [pid for (pid,) in connection.execute(query)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(CacheUnavailableError, match="did not answer"):
            cache.get("key")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    quiet = with_options(TIMEOUT_SECONDS=0.3)
    assert wait_for(lambda: quiet.get("key")) == "value"


def test_a_table_that_is_missing_says_what_to_do(aside, server):
    strict = with_options(ON_ERROR="raise")
    with (
        psycopg.connect(server.url(), autocommit=True) as connection,
        missing(connection.execute, "pgonly_cache"),
        pytest.raises(CacheError, match="Run manage"),
    ):
        strict.get("key")
    assert strict.get("key") is None


def test_a_pool_without_a_free_connection_says_so_and_recovers(aside, server):
    patient, hasty = (
        with_options(TIMEOUT_SECONDS=seconds, POOL_SIZE=1, ON_ERROR="raise") for seconds in (20, 0.2)
    )
    patient.set("key", 1)
    with psycopg.connect(server.url()) as connection, ThreadPoolExecutor(1) as thread:
        connection.execute("SELECT FROM pgonly_cache FOR UPDATE")
        setting = thread.submit(patient.set, "key", 2)
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgonly cache' AND state = 'active'"
        )
        with psycopg.connect(server.url(), autocommit=True) as looking:
            wait_for(lambda: looking.execute(waiting).fetchone())
        with pytest.raises(CacheUnavailableError, match="POOL_SIZE"):
            hasty.get("key")
        connection.commit()
        setting.result(20)
    assert hasty.get("key") == 2
