"""first_row() behaves as Django's cursor does."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import (
    DatabaseError,
    DataError,
    NotSupportedError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.transaction import TransactionManagementError
from django.test import SimpleTestCase
from django.test.utils import CaptureQueriesContext
from psycopg.errors import DeadlockDetected, UniqueViolation

from pgonly_django.context.interrupter import _set_async_exception
from pgonly_django.database import on_django
from pgonly_django.database.on_django import DEADLOCKS_OF_CALLER, TRIES, first_row, repeat_after_conflict
from pgonly_django.database.statement import Statement
from pgonly_django.models import Job
from pgonly_django.queue.enqueue import Template
from tests.interruptions import interrupted_in
from tests.sql import sql, value

pytestmark = pytest.mark.django_db(transaction=True)
PID = Statement("SELECT pg_backend_pid()::text")
NUMBER = Statement("SELECT %(number)s::int")


def ask(statement=NUMBER, **params):
    return first_row("default", statement, params)


def number(given):
    """What comes back for it: psycopg gives a number, libpq alone its text."""
    return int(ask(number=given)[0])


def test_the_first_row_comes_back_and_none_when_there_is_none():
    two, none = Statement("SELECT %(a)s::int::text, %(b)s::text"), Statement("SELECT 1 WHERE %(c)s::bool")
    for _ in range(8):
        assert ask(two, a=1, b=None) == ("1", None)
        assert ask(none, c=False) is None


def test_it_runs_in_the_callers_transaction():
    current = Statement("SELECT pg_current_xact_id()::text")
    for _ in range(8):
        with transaction.atomic():
            assert [ask(current)] == sql(current.sql)


def test_logged_queries_include_it():
    number(1)
    with CaptureQueriesContext(connection) as queries:
        number(42)
    assert "42" in queries[0]["sql"]


def test_execute_wrappers_see_it():
    number(1)
    seen = []
    with connection.execute_wrapper(lambda execute, sql, *rest: (seen.append(sql), execute(sql, *rest))[1]):
        number(1)
    assert seen == [NUMBER.sql]


def use(times: int = 8) -> None:
    """So often it is prepared, where it may be."""
    assert [number(each) for each in range(times)] == [*range(times)]


def prepared() -> list[str]:
    return [statement for (statement,) in sql("SELECT statement FROM pg_prepared_statements")]


def prepared_at():
    return value("SELECT prepare_time FROM pg_prepared_statements")


def test_a_statement_is_prepared_after_some_uses():
    connection.close()
    use(5)
    assert prepared() == []
    use()
    assert prepared() == ["SELECT $1::int"]


@contextlib.contextmanager
def options(**more):
    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connection.settings_dict, "OPTIONS", {**connection.settings_dict["OPTIONS"], **more})
        yield
    connection.close()


def test_the_project_says_after_how_many():
    with options(prepare_threshold=2):
        use(3)
        assert prepared() == ["SELECT $1::int"]


def test_statements_made_up_for_one_call_each_are_not_kept():
    number(0)
    for one in range(on_django.KEPT_AT_MOST * 3):
        ask(Statement(f"SELECT {one}"))
    assert len(on_django._uses[connection.connection]) <= on_django.KEPT_AT_MOST
    use()
    assert "SELECT $1::int" in prepared()


def test_a_literal_may_hold_what_looks_like_a_parameter():
    odd = Statement("SELECT '%%(number)s %% $1', %(number)s::text, %(number)s::text")
    for _ in range(8):
        assert ask(odd, number="7") == ("%(number)s % $1", "7", "7")


def test_more_than_a_socket_takes_at_once_goes_through():
    length = Statement("SELECT length(%(text)s)::text")
    for _ in range(8):
        assert ask(length, text="x" * 5_000_000) == ("5000000",)


SLEEP = Statement("SELECT pg_sleep(%(seconds)s)::text")


def test_an_exception_while_waiting_leaves_no_answer_behind():
    """As when a job is cancelled, or Ctrl-C is pressed: the next call must not get the answer to this one."""
    for _ in range(8):
        ask(SLEEP, seconds=0.0)
    with pytest.raises(KeyboardInterrupt), interrupted_in(0.3):
        ask(SLEEP, seconds=5.0)
    assert not connection.connection.closed
    assert number(3) == 3


def test_an_exception_set_by_another_thread_leaves_no_answer_behind():
    """As when a job runs into its max_runtime while it enqueues others."""
    outcome = []

    def work():
        for _ in range(8):
            ask(SLEEP, seconds=0.0)
        try:
            ask(SLEEP, seconds=0.6)
        except LookupError:
            outcome.append((number(3), connection.connection.closed))
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    _set_async_exception(thread.ident, id(LookupError))
    thread.join(10)
    assert outcome == [(3, False)]


def test_threads_that_share_a_connection_take_turns():
    use()
    shared, answers = connections["default"], []
    shared.inc_thread_sharing()

    def work(_):
        connections["default"] = shared
        answers.extend(map(number, range(100)))

    try:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(work, range(3)))
    finally:
        shared.dec_thread_sharing()
    assert sorted(answers) == sorted([*range(100)] * 3)


def test_what_the_project_listens_for_is_handed_on():
    use()
    sql("LISTEN a_channel")
    heard = []
    connection.connection.add_notify_handler(heard.append)
    ask(Statement("SELECT pg_notify('a_channel', 'word')::text"))
    number(1)
    assert [notify.payload for notify in heard] == ["word"]
    connection.close()


def test_where_psycopg_prepares_a_rollback_breaks_nothing():
    """It deallocates everything then, and knows only of its own."""
    with options(prepare_threshold=2, server_side_binding=True):
        for each in range(8):
            number(each)
            Job.objects.filter(priority=each).exists()
        with pytest.raises(KeyError), transaction.atomic():
            Job.objects.count()
            raise KeyError
        with transaction.atomic():
            Job.objects.count()
            assert number(3) == 3


def test_statements_that_somebody_discarded_are_prepared_again_each_by_itself():
    other = Statement("SELECT %(number)s::int + 1")
    use()
    for _ in range(4):
        ask(other, number=1)
    sql("DISCARD ALL")
    for _ in range(3):
        ask(other, number=1)
    for each in range(8):
        assert (number(each), int(ask(other, number=each)[0])) == (each, each + 1)
    assert len(prepared()) == 2


def test_a_name_that_is_taken_already_is_used():
    connection.close()
    use(5)
    sql(f"PREPARE {NUMBER.name.decode()} (int) AS SELECT $1")
    use(4)


def test_after_a_migration_the_statement_is_prepared_again():
    with table_that_changes() as (everything, change):
        before = prepared_at()
        change()
        assert [len(ask(everything)) for _ in range(2)] == [2, 2]
        assert prepared_at() > before


def test_after_a_migration_at_most_one_transaction_fails():
    """What is outdated is forgotten outside transactions; until then psycopg sends it in them."""
    with table_that_changes() as (everything, change):
        change()
        with pytest.raises(NotSupportedError), transaction.atomic():
            sql(PID.sql)  # Django opens its transactions with their first statement
            ask(everything)
        for _ in range(3):
            with transaction.atomic():
                sql(PID.sql)
                assert len(ask(everything)) == 2


@contextlib.contextmanager
def table_that_changes():
    """A prepared statement, and what changes the type of its result."""
    connection.close()
    sql("CREATE TEMPORARY TABLE changing AS SELECT 1 AS a")
    everything = Statement("SELECT * FROM changing")
    for _ in range(8):
        ask(everything)
    yield everything, lambda: sql("ALTER TABLE changing ADD COLUMN b int DEFAULT 2")
    connection.close()


class TenantsDatabase(DatabaseWrapper):
    """As in django-tenants: making a cursor chooses the schema."""

    schema = "tenant_a"

    def _cursor(self, name=None):
        cursor = super()._cursor(name)
        cursor.execute(f"SET search_path = {self.schema}, public")
        return cursor


def test_a_backend_that_makes_its_own_cursors_is_asked_for_one(monkeypatch):
    path = Statement("SELECT current_setting('search_path')")
    for _ in range(8):
        ask(path)
    wrapper = connections["default"]
    monkeypatch.setattr(wrapper, "__class__", TenantsDatabase)
    try:
        assert ask(path) == ("tenant_a, public",)
        wrapper.schema = "tenant_b"
        assert ask(path) == ("tenant_b, public",)
    finally:
        del wrapper.schema
        connection.close()


def test_a_plan_is_made_again_now_and_then(monkeypatch):
    connection.close()
    use()
    before = prepared_at()
    number(1)
    assert prepared_at() == before
    monkeypatch.setattr(on_django, "PLAN_SECONDS", 0.0)
    number(1)
    assert prepared_at() > before


def test_without_the_means_everything_goes_through_psycopg(monkeypatch):
    """As on Windows, or with a libpq from before 14."""
    connection.close()
    monkeypatch.setattr("pgonly_django.database.libpq.CAN_SEND", False)
    use()
    assert prepared() == []


def test_when_many_are_prepared_the_others_go_through_psycopg(monkeypatch):
    connection.close()
    monkeypatch.setattr(on_django, "KEPT_AT_MOST", 3)
    for one in range(5):
        statement = Statement(f"SELECT {one}")
        for _ in range(8):
            assert int(*ask(statement)) == one
    assert sorted(prepared()) == ["SELECT 0", "SELECT 1", "SELECT 2"]


def test_templates_of_the_same_text_share_a_statement():
    """Each job that enqueues makes templates of its own."""
    one, other = (Template("default", "default", "task", 0, 4) for _ in range(2))
    assert one.insert is other.insert


def test_errors_are_django_s():
    for _ in range(8):
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


def test_after_a_simple_test_case_statements_are_prepared_as_before():
    class Suite(SimpleTestCase):
        pass

    Suite.setUpClass()
    Suite.doClassCleanups()
    assert "cursor" in vars(connections["default"])
    connection.close()
    use()
    assert prepared() == ["SELECT $1::int"]


@pytest.mark.parametrize(
    ("of_caller", "error", "tries"),
    [
        (contextlib.nullcontext, DeadlockDetected, TRIES),
        (transaction.atomic, DeadlockDetected, DEADLOCKS_OF_CALLER),
        (transaction.atomic, UniqueViolation, TRIES),
    ],
)
def test_the_callers_transaction_waits_for_few_deadlocks_while_it_holds_its_locks(of_caller, error, tries):
    calls = []

    def conflict():
        calls.append(1)
        with transaction.atomic():
            raise OperationalError from error

    with pytest.raises(OperationalError), of_caller():
        repeat_after_conflict("default", conflict, UniqueViolation)
    assert len(calls) == tries
