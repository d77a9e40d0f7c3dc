"""A pipeline whose statements reach the server in one piece, or not at all."""

from __future__ import annotations

import time

import psycopg
import pytest

from pgonly_django.database import connect
from pgonly_django.database.connect import one_send_pipeline

pytestmark = pytest.mark.django_db(transaction=True)


def state_of(server: psycopg.Connection, other: psycopg.Connection) -> str:
    time.sleep(0.1)  # what was sent has arrived by then
    query = "SELECT state FROM pg_stat_activity WHERE pid = %s"
    return other.execute(query, [server.info.backend_pid]).fetchone()[0]


def test_nothing_is_sent_before_a_sync(server, other):
    with one_send_pipeline(server) as pipeline:
        server.execute("BEGIN")
        first = server.execute("SELECT 1")
        assert state_of(server, other) == "idle"
        pipeline.sync()
        assert first.fetchone() == (1,)
        assert state_of(server, other) == "idle in transaction"
        second = server.execute("SELECT 2")
        server.execute("COMMIT")
        assert state_of(server, other) == "idle in transaction"
    assert second.fetchone() == (2,)
    assert state_of(server, other) == "idle"


def test_statements_are_prepared_as_ever(server):
    for number in range(3):
        with one_send_pipeline(server):
            cursors = [server.execute("SELECT %s::int", [number], prepare=True) for _ in range(3)]
        assert [cursor.fetchone() for cursor in cursors] == [(number,)] * 3
    assert server.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (1,)


def test_the_first_error_is_raised_and_the_connection_goes_on(server):
    with pytest.raises(psycopg.errors.DivisionByZero), one_send_pipeline(server):
        server.execute("SELECT 1")
        server.execute("SELECT 1/0")
        server.execute("SELECT 2")
    with one_send_pipeline(server):
        cursor = server.execute("SELECT 3")
    assert cursor.fetchone() == (3,)


def test_an_error_of_the_caller_leaves_nothing_behind(server):
    with pytest.raises(RuntimeError), one_send_pipeline(server):
        server.execute("SELECT 1")
        raise RuntimeError
    assert server.execute("SELECT 2").fetchone() == (2,)


def test_more_than_libpq_keeps_arrives_too(server):
    long = "x" * 3_000_000
    with one_send_pipeline(server):
        cursors = [server.execute("SELECT length(%s::text)", [long]) for _ in range(5)]
    assert [cursor.fetchone() for cursor in cursors] == [(3_000_000,)] * 5


def test_a_psycopg_that_is_not_known_has_its_own_pipeline(server, monkeypatch):
    monkeypatch.setattr(connect, "knows_pipelines", lambda: False)
    with connect.one_send_pipeline(server):
        cursor = server.execute("SELECT 4")
    assert cursor.fetchone() == (4,)
