"""One connection: what it sets, prepares and sends, and what ends it."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from django.db import connection, connections

from pgonly_django.database import connection as connection_module
from pgonly_django.database.connect import connection_params
from pgonly_django.database.operation import run
from pgonly_django.database.statement import Statement, bytea_array, integer
from pgonly_django.exceptions import CacheError, CacheUnavailableError
from tests.database.calls import row_locked
from tests.interruptions import interrupted_in
from tests.sql import sql
from tests.waiting import wait_for


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


def test_the_server_uses_the_memory_of_large_statements_again(own):
    def page_faults():
        try:
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
        except FileNotFoundError:
            pytest.skip("the server's processes are not seen from here")

    if platform.libc_ver()[0] != "glibc":
        pytest.skip("it is glibc that gives the memory back")
    cache = own.cache()
    cache.set("key", 1)
    (pid,) = own.pids()
    length = Statement("SELECT cardinality(%(values)s::bytea[])", may_be_large=True)
    values = [bytea_array([bytes(10_000)] * 100)]
    for _ in range(2):
        run(cache.store.pool.call(length, values, 20, 20))
    before = page_faults()
    run(cache.store.pool.call(length, values, 20, 20))
    assert page_faults() - before < 100


def test_a_connection_the_server_closed_is_replaced_before_it_is_used(own):
    cache = own.cache()
    cache.set("number", 1)
    (pid,) = own.pids()
    sql(
        "SELECT pg_terminate_backend(%s, 5000)", pid
    )  # waits until its process is gone, with its last message sent
    assert cache.incr("number") == 2


def test_it_assumes_the_role_that_djangos_connection_assumes(own):
    role = f"the app {os.getpid()}"  # roles are the whole server's
    connections.settings[own.name]["OPTIONS"]["assume_role"] = role
    sql(f'CREATE ROLE "{role}" NOLOGIN')
    try:
        assert own.cache(ON_ERROR=None).get("key", "default") == "default"  # this role may not read the table
        with pytest.raises(CacheError, match="permission denied"):
            own.cache().get("key")
    finally:
        sql(f'DROP ROLE "{role}"')


def test_a_migration_that_changes_what_a_statement_returns_costs_no_call(own):
    cache = own.cache()
    cache.set("key", "value")
    assert cache.get("key") == "value"
    before = own.pids()
    for kind in ("integer", "smallint"):
        sql(f"ALTER TABLE pgonly_cache ALTER codec TYPE {kind}")
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


@pytest.mark.parametrize(("given", "kept"), [("0", "1s"), ("7s", "7s")])
def test_how_often_the_server_looks_for_gone_clients_is_set_where_the_project_has_not(make_own, given, kept):
    cache = make_own(f"-c client_connection_check_interval={given}").cache()
    shown = Statement("SELECT current_setting('client_connection_check_interval')")
    assert run(cache.store.call(shown)).get_value(0, 0) == kept.encode()


def test_the_statement_of_a_call_that_was_given_up_ends_though_it_waits_for_a_lock(own):
    cache = own.cache(TIMEOUT_SECONDS=0.3)
    cache.set("key", 1)
    with row_locked(cache, "key"):
        with pytest.raises(CacheUnavailableError, match=r"did not answer within 0\.3 s"):
            cache.set("key", 2)
        wait_for(lambda: not own.is_busy())


def test_what_the_project_says_of_isolation_is_not_for_the_cache(make_own):
    own = make_own("-c default_transaction_isolation=repeatable\\ read")
    cache = own.cache()
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
    cache = own.cache()
    cache.set("key", 1)
    with ThreadPoolExecutor(1) as thread:
        with row_locked(cache, "key"):
            setting = thread.submit(cache.set, "key", 2)
            waits = "state = 'active' AND clock_timestamp() - query_start > interval '0.5 s'"
            wait_for(lambda: own.pids(waits) or setting.done())
        setting.result(20)
    assert cache.get("key") == 2


def test_a_timeout_error_of_a_signal_handler_is_no_outage(own):
    cache = own.cache()
    cache.set_many({"locked": 1, "other": 2})
    with row_locked(cache, "locked"):
        with pytest.raises(TimeoutError), interrupted_in(0.3, TimeoutError):
            cache.incr("locked")
        assert cache.get("other") == 2
