"""The statements run on Django's connection, prepared where that is safe."""

from __future__ import annotations

from enum import Enum

import psycopg
import pytest
from django.db import Error, OperationalError, connection, transaction

from pgonly_django.database import on_django
from pgonly_django.sessions import SessionStore
from tests import activity
from tests.sessions.rows import stored
from tests.sql import sql


@pytest.fixture
def key(db):
    return stored(a=1).session_key


def prepared() -> list[str]:
    """What this very connection has prepared, asked without preparing anything."""
    return [text for (text,) in sql("SELECT statement FROM pg_prepared_statements")]


def load_often(key: str, times: int = 8) -> list[int]:
    return [SessionStore(key)["a"] for _ in range(times)]


def test_a_session_is_part_of_the_tests_own_transaction(key):
    assert load_often(key) == [1] * 8
    assert connection.in_atomic_block
    with psycopg.connect(**connection.get_connection_params()) as other:
        assert other.execute("SELECT count(*) FROM pgonly_session").fetchone() == (0,)


@pytest.mark.django_db(transaction=True)
def test_with_autocommit_off_a_session_is_part_of_the_callers_commit(key):
    transaction.set_autocommit(False)
    try:
        kept, lost = SessionStore(), SessionStore(key)
        kept["b"] = 2
        kept.save()
        transaction.commit()
        lost["a"] = 3
        lost.save()
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert SessionStore(kept.session_key)["b"] == 2
    assert SessionStore(key)["a"] == 1


@pytest.mark.django_db(transaction=True)
def test_a_load_on_a_dead_connection_is_tried_again_on_a_new_one(key):
    backend = connection.connection.info.backend_pid
    end_connections()
    assert load_often(key, 1) == [1]
    assert connection.connection.info.backend_pid != backend


def end_connections() -> None:
    """All to the test database, as a restart of the server does."""
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        activity.end(on=other)


@pytest.mark.django_db(transaction=True)
def test_in_a_transaction_a_dead_connection_is_an_error(key):
    with pytest.raises(Error), transaction.atomic():
        load_often(key, 1)
        end_connections()
        load_often(key, 1)
    connection.close()


@pytest.mark.django_db(transaction=True)
def test_after_a_restart_no_place_of_djangos_pool_costs_a_request(key, monkeypatch):
    connection.close()
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "pool", {"min_size": 3, "max_size": 3})
    try:
        load_often(key, 1)
        connection.close()
        connection.pool.wait(10)
        end_connections()
        for _ in range(3):
            assert load_often(key, 1) == [1]
            connection.close()
    finally:
        connection.close()
        connection.close_pool()


@pytest.mark.django_db(transaction=True)
def test_a_server_that_cannot_be_reached_is_tried_once(key, monkeypatch):
    connection.close()
    tries = []

    def refuse(params):
        tries.append(params)
        raise psycopg.OperationalError("connection timeout expired")

    monkeypatch.setattr(connection, "get_new_connection", refuse)
    with pytest.raises(OperationalError):
        load_often(key, 1)
    assert len(tries) == 1


def save_often(key: str, times: int = 8, **values) -> None:
    for number in range(times):
        session = SessionStore(key)
        session.update({**values, "number": number})
        session.save()


@pytest.mark.django_db(transaction=True)
def test_names_and_values_arrive_as_they_are_when_prepared(key):
    odd = ['"', "\\", "a,b", "{}", "NULL", "", "'", "ä", "%s", "$1"]
    save_often(key, **dict.fromkeys(odd, "kept"))
    session = SessionStore(key)
    assert [session[name] for name in odd] == ["kept"] * len(odd)
    for name in odd:
        session = SessionStore(key)
        del session[name]
        session.save()
    assert sorted(SessionStore(key).keys()) == ["a", "number"]
    assert any("||" in statement for statement in prepared())


class Key(str, Enum):  # noqa: UP042 - its str() is another than a StrEnum's
    CART = "cart"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("prepared_before", [0, 8])
def test_a_key_may_be_an_enums_member(key, prepared_before):
    save_often(key, prepared_before)
    session = SessionStore(key)
    session[Key.CART] = 1
    session.save()
    del session[Key.CART]
    session.save()
    assert "cart" not in SessionStore(key)


@pytest.mark.django_db(transaction=True)
def test_amid_a_pipeline_of_the_callers_a_load_works(key):
    load_often(key)
    with connection.connection.pipeline():
        assert load_often(key, 2) == [1, 1]


@pytest.mark.django_db(transaction=True)
def test_with_another_encoding_nothing_is_prepared(key):
    connection.close()
    connection.ensure_connection()
    connection.connection.execute("SET client_encoding TO latin1")
    try:
        save_often(key, name="ä")
        assert SessionStore(key)["name"] == "ä"
        assert prepared() == []
    finally:
        connection.close()


@pytest.fixture
def through_the_pooler(key, pooler, monkeypatch):
    """Django's connection, led through the pooler for this test."""
    connection.close()
    on_django._direct.clear()
    with monkeypatch.context() as changed:
        changed.setitem(connection.settings_dict, "HOST", "127.0.0.1")
        changed.setitem(connection.settings_dict, "PORT", str(pooler))
        yield
        connection.close()
    on_django._direct.clear()


@pytest.mark.django_db(transaction=True)
def test_behind_a_pooler_nothing_is_prepared(through_the_pooler, key):
    assert load_often(key, 20) == [1] * 20
    assert on_django._direct == {"default": False}
    assert prepared() == []
