from __future__ import annotations

from contextlib import contextmanager

import psycopg
import pytest
from django.db import connections
from django.db.backends.postgresql.base import DatabaseWrapper

from pgonly_django.database.reconnecting import FIRST_PAUSE_SECONDS, Reconnecting
from tests.sql import sql
from tests.waiting import wait_for


@pytest.fixture
def said():
    return []


@pytest.fixture
def database(transactional_db, said):
    made = Reconnecting(
        "default",
        application_name="pgonly tests, reconnecting",
        lock_wait="1s",
        opened=lambda _: said.append("opened"),
        lost=lambda _: said.append("lost"),
        back=lambda: said.append("back"),
    )
    yield made
    made.close()


def answer(opened):
    return opened.execute("SELECT 1").fetchone()


def cut(database):
    pid = database.connection().info.backend_pid
    sql("SELECT pg_terminate_backend(%s, 5000)", pid)


def test_a_lost_connection_is_opened_again_after_a_pause(database, said):
    assert database.ask(answer) == (1,)
    cut(database)
    assert database.ask(answer) is None
    assert database.is_away
    assert database.connection() is None
    assert 0 < database.pause_seconds <= FIRST_PAUSE_SECONDS
    wait_for(lambda: database.ask(answer) == (1,))
    assert not database.is_away
    assert said == ["opened", "lost", "opened", "back"]


def test_while_the_database_is_away_the_pauses_grow_and_it_is_said_once(database, said):
    pauses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connections.settings["default"], "HOST", "127.0.0.1")
        patch.setitem(connections.settings["default"], "PORT", "1")
        for _ in range(3):
            wait_for(lambda: database.pause_seconds == 0)
            assert database.connection() is None
            pauses.append(database.pause_seconds)
    assert pauses[0] < pauses[1] < pauses[2]
    assert said == ["lost"]


def test_a_refusal_is_no_loss(database, said):
    def refuse(_):
        raise psycopg.errors.LockNotAvailable

    assert database.ask(refuse) is None
    assert not database.is_away
    assert said == ["opened"]


def test_a_connection_that_cannot_be_prepared_is_none(database, said):
    def fail(_):
        raise psycopg.OperationalError

    database._opened = fail
    assert database.connection() is None
    assert said == ["lost"]
    database._opened = lambda _: None
    wait_for(lambda: database.connection() is not None)
    assert said == ["lost", "back"]


class NoTokenError(Exception):
    """What fetches the passwords is away as well."""


@contextmanager
def no_token():
    """As with a database backend that fetches a password for each connection."""

    def fail(_):
        raise NoTokenError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseWrapper, "get_connection_params", fail)
        yield


def test_whatever_keeps_it_from_connecting_again_is_a_loss(database, said):
    assert database.ask(answer) == (1,)
    cut(database)
    with no_token():
        assert database.ask(answer) is None
        wait_for(lambda: database.pause_seconds == 0)
        assert database.connection() is None
        assert database.pause_seconds > FIRST_PAUSE_SECONDS
    wait_for(lambda: database.ask(answer) == (1,))
    assert said == ["opened", "lost", "opened", "back"]


def test_what_keeps_it_from_connecting_for_the_first_time_is_raised(database, said):
    with no_token(), pytest.raises(NoTokenError):
        database.connection()
    assert said == []
