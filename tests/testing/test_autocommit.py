"""The transactions of jobs in a TestCase beyond what drain() shows: by hand, in another database, one in another."""

from __future__ import annotations

import pytest
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError

from pgonly_django.models import Job
from pgonly_django.testing import drain
from pgonly_django.testing.autocommit import as_in_autocommit
from tests.aliases import alias
from tests.jobs import add, drained, mark

pytestmark = pytest.mark.django_db


@pytest.fixture
def lite(any_database, tmp_path):
    """A database of SQLite inside the transaction of a test."""
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "lite.sqlite3", "OPTIONS": {}}
    with alias("lite", **sqlite), transaction.atomic("lite"):
        with connections["lite"].cursor() as cursor:
            cursor.execute("CREATE TABLE mark (key text)")
        yield connections["lite"]


def write(connection, key):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO mark VALUES (%s)", [key])


def test_a_database_that_is_not_postgresql_commits_likewise(lite):
    told = []
    with as_in_autocommit() as lost:
        assert not lite.in_atomic_block
        write(lite, "kept")
        with transaction.atomic("lite"):
            transaction.on_commit(lambda: told.append("committed"), using="lite")
            write(lite, "kept too")
        assert told == ["committed"]
        with pytest.raises(ZeroDivisionError), transaction.atomic("lite"):
            write(lite, "rolled back")
            raise ZeroDivisionError
        transaction.atomic("lite").__enter__()
        write(lite, "left open")
    assert lost == ["lite"]
    assert lite.in_atomic_block
    with lite.cursor() as cursor:
        cursor.execute("SELECT key FROM mark")
        assert cursor.fetchall() == [("kept",), ("kept too",)]


def test_what_fails_in_one_place_is_no_other_place_s(written):
    """Savepoints of a job inside of its atomic(), one of which fails."""
    with as_in_autocommit() as lost, transaction.atomic():
        mark("outer")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            mark("inner")
            raise ZeroDivisionError
        place = connection.savepoint()
        mark("by hand")
        connection.savepoint_rollback(place)
        mark("after")
    assert lost == []
    assert written() == ["outer", "after"]


def test_a_transaction_without_savepoint_is_rolled_back_as_a_whole(written):
    with as_in_autocommit():
        with pytest.raises(ZeroDivisionError), transaction.atomic(), transaction.atomic(savepoint=False):
            mark("inner")
            raise ZeroDivisionError
        mark("after")
    assert written() == ["after"]


def test_a_server_side_cursor_is_read_to_its_end(written):
    for number in range(5):
        mark(str(number))
    with as_in_autocommit(), connection.chunked_cursor() as cursor:
        cursor.execute("SELECT key FROM tests_mark ORDER BY id")
        first = cursor.fetchmany(2)
        mark("between")
        with pytest.raises(Exception, match="division"):
            connection.cursor().execute("SELECT 1 / 0")
        assert [key for (key,) in first + cursor.fetchmany(10)] == ["0", "1", "2", "3", "4"]


def test_one_in_another_leaves_the_outer_as_it_was(written):
    with as_in_autocommit():
        with as_in_autocommit():
            mark("inner")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            mark("rolled back")
            raise ZeroDivisionError
        assert not connection.in_atomic_block
    assert connection.in_atomic_block
    assert written() == ["inner"]


def test_a_job_may_drain_others():
    drained.drain_others.enqueue()
    add.enqueue(1)
    assert [result.return_value for result in drain()] == [1]
    assert Job.objects.filter(state="succeeded").count() == 2


def test_a_transaction_that_the_test_has_broken_is_named():
    add.enqueue(1)
    with pytest.raises(Exception, match="division"):
        connection.cursor().execute("SELECT 1 / 0")
    with pytest.raises(TransactionManagementError, match="before the drain"):
        drain()
    transaction.set_rollback(True)
