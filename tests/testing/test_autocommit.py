"""In which transactions jobs run: those that drain() shows, and by hand, in another database, one in another."""

from __future__ import annotations

import pytest
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from pgonly_django.exceptions import TransactionLeftOpenError
from pgonly_django.models import Job
from pgonly_django.testing import drain
from pgonly_django.testing.autocommit import as_in_autocommit
from tests.aliases import alias
from tests.jobs import add, drained, mark, transactions
from tests.sql import setting, sql
from tests.testing.conftest import both, states


def test_a_job_that_breaks_the_transaction_is_rolled_back_as_a_whole(db, written):
    drained.break_the_transaction.enqueue()
    with pytest.raises(TransactionLeftOpenError):
        drain()
    assert written() == []
    assert states() == ["failed"]


@both
def test_a_transaction_that_a_job_has_only_read_in_does_not_fail_it(where):
    transactions.read_in_an_open_transaction.enqueue()
    drain()
    assert states() == ["succeeded"]


def test_the_test_s_own_transaction_is_as_it_was_before(db, written):
    told = []
    with transaction.atomic():
        connection.on_commit(lambda: told.append("committed"))
        hooks, wrappers = connection.run_on_commit, connection.execute_wrappers
        savepoints, blocks = connection.savepoint_ids, connection.atomic_blocks
        drained.tell_after_commit.enqueue("one")
        drained.mark_and_fail.enqueue("two")
        drain(raise_errors=False)
        assert connection.in_atomic_block
        assert not connection.get_autocommit()
        assert connection.run_on_commit is hooks
        assert connection.execute_wrappers is wrappers
        assert connection.savepoint_ids is savepoints
        assert connection.atomic_blocks is blocks
        assert "_commit" not in vars(connection)
        assert len(written()) == 5
        transaction.set_rollback(True)
    assert not Job.objects.exists()
    assert written() == []


def test_queries_that_a_test_counts_are_those_of_its_jobs(db):
    add.enqueue(1)
    drain()  # the declarations of queues, once
    add.enqueue(1)
    drained.mark_and_fail.enqueue("one")
    with CaptureQueriesContext(connection) as queries:
        drain(raise_errors=False)
    assert [query["sql"] for query in queries if "tests_mark" in query["sql"]] == [
        "INSERT INTO tests_mark (key) VALUES ('one')"
    ]
    assert not [query["sql"] for query in queries if "SAVEPOINT pgonly" in query["sql"]]


@pytest.fixture
def lite(any_database, tmp_path):
    """A database of SQLite inside the transaction of a test."""
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "lite.sqlite3", "OPTIONS": {}}
    with alias("lite", **sqlite), transaction.atomic("lite"):
        sql("CREATE TABLE mark (key text)", using="lite")
        yield connections["lite"]


def write(key):
    sql("INSERT INTO mark VALUES (%s)", key, using="lite")


@pytest.mark.django_db
def test_a_database_that_is_not_postgresql_commits_likewise(lite):
    told = []
    with as_in_autocommit() as lost:
        assert not lite.in_atomic_block
        write("kept")
        with transaction.atomic("lite"):
            transaction.on_commit(lambda: told.append("committed"), using="lite")
            write("kept too")
        assert told == ["committed"]
        with pytest.raises(ZeroDivisionError), transaction.atomic("lite"):
            write("rolled back")
            raise ZeroDivisionError
        transaction.atomic("lite").__enter__()
        write("left open")
    assert lost == ["lite"]
    assert lite.in_atomic_block
    assert sql("SELECT key FROM mark", using="lite") == [("kept",), ("kept too",)]


@pytest.mark.django_db
def test_a_server_side_cursor_is_read_to_its_end(written):
    for number in range(5):
        mark(str(number))
    with as_in_autocommit(), connection.chunked_cursor() as cursor:
        cursor.execute("SELECT key FROM tests_mark ORDER BY id")
        first = cursor.fetchmany(2)
        mark("between")
        with pytest.raises(Exception, match="division"):
            sql("SELECT 1 / 0")
        assert [key for (key,) in first + cursor.fetchmany(10)] == ["0", "1", "2", "3", "4"]


@pytest.mark.django_db
def test_a_transaction_without_savepoint_is_rolled_back_as_a_whole(written):
    with as_in_autocommit():
        with pytest.raises(ZeroDivisionError), transaction.atomic(), transaction.atomic(savepoint=False):
            mark("inner")
            raise ZeroDivisionError
        mark("after")
    assert written() == ["after"]


@pytest.mark.django_db
def test_a_job_may_drain_others():
    drained.drain_others.enqueue()
    add.enqueue(1)
    assert [result.return_value for result in drain()] == [1]
    assert Job.objects.filter(state="succeeded").count() == 2


@pytest.mark.django_db
def test_a_transaction_that_the_test_has_broken_is_named():
    add.enqueue(1)
    with pytest.raises(Exception, match="division"):
        sql("SELECT 1 / 0")
    with pytest.raises(TransactionManagementError, match="before the drain"):
        drain()
    transaction.set_rollback(True)


# Settings.


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("statement", "name", "inside"),
    [
        ("set  local work_mem to 65536", "work_mem", "64MB"),
        ("SET LOCAL TIME ZONE 'Asia/Tokyo'", "timezone", "Asia/Tokyo"),
        ('/* why */ SET LOCAL "app.tenant" = 7', "app.tenant", "7"),
        ("SELECT 1; SET LOCAL app.tenant = '8'", "app.tenant", "8"),
        ("SELECT set_config('app.tenant', concat('a', ')'), true), 1", "app.tenant", "a)"),
    ],
)
def test_a_local_setting_ends_with_the_transaction(statement, name, inside):
    before = setting(name) or ""
    with as_in_autocommit():
        with transaction.atomic():
            sql(statement)
            assert setting(name) == inside
        assert setting(name) == before
        sql(statement)
        assert setting(name) == before


@pytest.mark.django_db
def test_an_update_is_no_setting(written):
    with as_in_autocommit(), transaction.atomic():
        mark("a")
        sql("UPDATE tests_mark SET key = 'a; set local x = 1'")
    assert written() == ["a; set local x = 1"]


@pytest.mark.django_db
def test_settings_of_the_test_are_there_again_after_a_job_has_changed_them():
    sql("SET statement_timeout = '3s'")
    with as_in_autocommit():
        with transaction.atomic():
            sql("SET LOCAL statement_timeout = '7s'")
            sql("RESET statement_timeout")
        assert setting("statement_timeout") == "0"
        sql("SET SESSION statement_timeout = '8s'")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            sql("SET LOCAL statement_timeout = '9s'")
            raise ZeroDivisionError
        assert setting("statement_timeout") == "8s"
    assert setting("statement_timeout") == "3s"


@pytest.mark.django_db(transaction=True)
def test_a_connection_on_which_a_job_left_a_setting_is_closed():
    of_the_test_run = connections["default"]
    with as_in_autocommit():
        sql("SET statement_timeout = '7s'")
        mine = connection.connection.info.backend_pid
    assert setting("statement_timeout") == "0"
    assert connections["default"].connection.info.backend_pid != mine
    with as_in_autocommit():
        mark("a")
    pid = connections["default"].connection.info.backend_pid
    with as_in_autocommit():
        assert connections["default"].connection.info.backend_pid == pid
    assert connections["default"] is of_the_test_run


@pytest.mark.django_db(transaction=True)
def test_after_a_job_that_left_a_transaction_open_the_connection_is_that_of_the_test_run(written):
    of_the_test_run = connections["default"]
    with as_in_autocommit() as lost:
        transaction.atomic().__enter__()
        transaction.atomic().__enter__()
        mark("lost")
    assert lost == ["default"]
    assert connections["default"] is of_the_test_run
    with transaction.atomic():
        mark("kept")
    assert written() == ["kept"]
