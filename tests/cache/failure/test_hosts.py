"""Hosts that are silent, refuse or have no address: each call ends in its time, and a good one is found."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest
from django.db import connections

from pgonly_django.exceptions import CacheUnavailableError
from tests.cache.failure.conftest import point_aside_to, with_options
from tests.waiting import wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_while_it_is_down_calls_fail_at_once_and_a_second_later_it_is_tried_again(aside):
    settings = connections.settings["aside"]
    with hanging_up() as (port, tried):
        point_aside_to(HOST="127.0.0.1", PORT=port)
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
        point_aside_to(HOST="127.0.0.1", PORT=port)
        cache = with_options(TIMEOUT_SECONDS=0.2, POOL_SIZE=3)
        start = time.monotonic()
        assert cache.get("key") is None
        assert time.monotonic() - start < 5
        with pytest.raises(CacheUnavailableError):
            asyncio.run(cache.aset("key", 1))


@contextlib.contextmanager
def silent_host(backlog=20):
    """A port that takes connections and never says anything; without a `backlog` one that refuses them."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if backlog:
            silent.listen(backlog)
        yield silent.getsockname()[1]


def test_of_several_hosts_one_that_is_silent_and_one_that_refuses_do_not_hide_the_good_one(aside):
    with silent_host() as silent, silent_host(backlog=0) as refusing:
        hosts = f"127.0.0.1,127.0.0.1,{connections.settings['aside']['HOST']}"
        point_aside_to(HOST=hosts, PORT=f"{silent},{refusing},5432")
        cache = with_options(ON_ERROR="raise", POOL_SIZE=21)
        start = time.monotonic()
        cache.set("key", 1)
        assert time.monotonic() - start < 5
        asyncio.run(cache.aset("key", 2))
        assert cache.get("key") == 2


def test_when_every_host_fails_the_error_names_all_reasons_within_the_timeout(aside):
    with silent_host() as silent, silent_host(backlog=0) as refusing:
        point_aside_to(HOST="127.0.0.1,127.0.0.1", PORT=f"{silent},{refusing}")
        cache = with_options(ON_ERROR="raise", POOL_SIZE=22, TIMEOUT_SECONDS=0.4)
        start = time.monotonic()
        with pytest.raises(CacheUnavailableError, match=r"(?s)did not answer within 0.2 s.*refused"):
            cache.get("key")
        assert time.monotonic() - start < 5


def test_the_standby_or_the_primary_is_chosen_among_the_hosts(aside):
    point_aside_to(OPTIONS={"target_session_attrs": "prefer-standby"})
    with_options(ON_ERROR="raise", POOL_SIZE=23).set("key", 1)  # there is no standby
    point_aside_to(OPTIONS={"target_session_attrs": "standby"})
    with pytest.raises(CacheUnavailableError, match="not in hot standby mode"):
        with_options(ON_ERROR="raise", POOL_SIZE=24).set("key", 1)


def test_while_a_name_is_looked_up_the_event_loop_goes_on(aside, monkeypatch):
    looked_up, loop_goes_on = threading.Event(), threading.Event()

    def look_up(*_, **__):
        looked_up.set()
        assert loop_goes_on.wait(20)
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    point_aside_to(HOST="db.example", PORT=5432)
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
    with silent_name_server(monkeypatch):
        point_aside_to(HOST=f"db.example,{connections.settings['aside']['HOST']}", PORT="5432,5432")
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
