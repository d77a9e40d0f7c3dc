"""The short way to Django's connection has to behave as Django's cursor does."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, DataError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from pgonly_django.postgres import first_row

pytestmark = pytest.mark.django_db(transaction=True)
PID = "SELECT pg_backend_pid()"


def ask(statement="SELECT %s::int", *parameters):
    return first_row("default", statement, parameters)


def test_the_first_row_comes_back_and_none_when_there_is_none():
    assert ask("SELECT %s::int, %s", 1, "two") == (1, "two")
    assert ask("SELECT 1 WHERE %s", False) is None


def test_it_runs_in_the_callers_transaction():
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()::text")
        assert ask("SELECT pg_current_xact_id()::text") == cursor.fetchone()


def test_whoever_logs_queries_sees_it():
    ask("SELECT %s::int", 1)
    with CaptureQueriesContext(connection) as queries:
        ask("SELECT %s::int", 42)
    assert "42" in queries[0]["sql"]


def test_whoever_wraps_execution_sees_it():
    ask("SELECT %s::int", 1)
    seen = []
    with connection.execute_wrapper(lambda execute, sql, *rest: (seen.append(sql), execute(sql, *rest))[1]):
        ask("SELECT %s::int", 1)
    assert seen == ["SELECT %s::int"]


def prepared() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        return [statement for (statement,) in cursor.fetchall()]


def test_nothing_is_prepared_on_the_server_by_default():
    for _ in range(20):
        ask("SELECT %s::int + 1", 1)
    assert prepared() == []


def test_statements_are_prepared_where_the_project_allows_it():
    connection.close()
    options = connection.settings_dict["OPTIONS"]
    connection.settings_dict["OPTIONS"] = {**options, "prepare_threshold": 2}
    try:
        answers = [ask("SELECT %s::int + 1", number) for number in range(5)]
        assert answers == [(number + 1,) for number in range(5)]
        assert prepared() == ["SELECT $1::int + 1"]
    finally:
        connection.settings_dict["OPTIONS"] = options
        connection.close()


def test_errors_are_django_s():
    with pytest.raises(DataError):
        ask("SELECT %s::int", "not a number")
    assert ask("SELECT %s::int", 1) == (1,)


def test_a_broken_transaction_is_refused_as_django_refuses_it():
    with transaction.atomic():
        with pytest.raises(DatabaseError), transaction.atomic():
            ask("SELECT 1 / %s", 0)
        assert ask("SELECT %s::int", 1) == (1,)
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            ask("SELECT %s::int", 1)


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
