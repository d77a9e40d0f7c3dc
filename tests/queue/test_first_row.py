"""The short way to Django's connection has to behave as Django's cursor does."""

from __future__ import annotations

import contextlib
import signal

import pytest
from django.db import DatabaseError, DataError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from pgonly_django import postgres
from pgonly_django.postgres import first_row
from pgonly_django.statement import Statement

pytestmark = pytest.mark.django_db(transaction=True)
PID = Statement("SELECT pg_backend_pid()::text")
NUMBER = Statement("SELECT %(number)s::int")


def ask(statement=NUMBER, **params):
    return first_row("default", statement, params)


def number(value):
    """What comes back for `value`: psycopg gives a number, libpq alone its text."""
    return int(ask(number=value)[0])


def test_the_first_row_comes_back_and_none_when_there_is_none():
    two, none = Statement("SELECT %(a)s::int::text, %(b)s::text"), Statement("SELECT 1 WHERE %(c)s::bool")
    for _ in range(8):
        assert ask(two, a=1, b=None) == ("1", None)
        assert ask(none, c=False) is None


def test_it_runs_in_the_callers_transaction():
    current = Statement("SELECT pg_current_xact_id()::text")
    for _ in range(8):
        with transaction.atomic(), connection.cursor() as cursor:
            mine = ask(current)
            cursor.execute(current.sql)
            assert mine == cursor.fetchone()


def test_whoever_logs_queries_sees_it():
    number(1)
    with CaptureQueriesContext(connection) as queries:
        number(42)
    assert "42" in queries[0]["sql"]


def test_whoever_wraps_execution_sees_it():
    number(1)
    seen = []
    with connection.execute_wrapper(lambda execute, sql, *rest: (seen.append(sql), execute(sql, *rest))[1]):
        number(1)
    assert seen == [NUMBER.sql]


def prepared() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        return [statement for (statement,) in cursor.fetchall()]


def test_a_statement_is_prepared_after_some_uses():
    connection.close()
    for value in range(5):
        assert number(value) == value
    assert prepared() == []
    assert [number(value) for value in range(8)] == list(range(8))
    assert prepared() == ["SELECT $1::int"]


def test_the_project_says_after_how_many():
    connection.close()
    options = connection.settings_dict["OPTIONS"]
    connection.settings_dict["OPTIONS"] = {**options, "prepare_threshold": 2}
    try:
        assert [number(value) for value in range(3)] == [0, 1, 2]
        assert prepared() == ["SELECT $1::int"]
    finally:
        connection.settings_dict["OPTIONS"] = options
        connection.close()


def test_statements_made_up_for_one_call_each_are_not_kept():
    number(0)
    for one in range(postgres.KEPT_AT_MOST * 3):
        ask(Statement(f"SELECT {one}"))
    assert len(postgres._uses[connection.connection]) <= postgres.KEPT_AT_MOST
    for value in range(8):
        assert number(value) == value
    assert "SELECT $1::int" in prepared()


def test_a_literal_may_hold_what_looks_like_a_parameter():
    odd = Statement("SELECT '%%(number)s %% $1', %(number)s::text, %(number)s::text")
    for _ in range(8):
        assert ask(odd, number="7") == ("%(number)s % $1", "7", "7")


def test_more_than_a_socket_takes_at_once_goes_through():
    length = Statement("SELECT length(%(text)s)::text")
    for _ in range(8):
        assert ask(length, text="x" * 5_000_000) == ("5000000",)


def test_an_exception_while_waiting_leaves_no_answer_behind():
    """As when a job is cancelled, or Ctrl-C is pressed: the next call must not get the answer to this one."""
    sleep = Statement("SELECT pg_sleep(%(seconds)s)::text")
    for _ in range(8):
        ask(sleep, seconds=0.0)
    with pytest.raises(KeyboardInterrupt), interrupted_in(0.3):
        ask(sleep, seconds=5.0)
    assert connection.connection.closed
    connection.close()
    assert number(3) == 3


@contextlib.contextmanager
def interrupted_in(seconds):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_errors_are_django_s():
    with pytest.raises(DataError):
        number("not a number")
    assert number(1) == 1


def test_a_broken_transaction_is_refused_as_django_refuses_it():
    with transaction.atomic():
        with pytest.raises(DatabaseError), transaction.atomic():
            ask(Statement("SELECT 1 / %(zero)s::int"), zero=0)
        assert number(1) == 1
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            number(1)


def test_a_new_connection_is_used_after_the_old_one_was_closed():
    (first,) = ask(PID)
    connection.close()
    (second,) = ask(PID)
    assert (first, second) != (second, second)
    assert ask(PID) == (second,)


def test_a_dead_connection_is_replaced_where_health_checks_are_on():
    (first,) = ask(PID)
    connection.health_check_enabled, connection.health_check_done = True, False
    connection.connection.close()
    assert ask(PID) != (first,)
