"""Inside Django's TestCase the cache uses the test's own connection, so that a test rolls back what it cached
and never waits for a lock of its own transaction. Where Django forbids a test the database, so does the cache.
"""

from __future__ import annotations

from typing import TypeVar

from asgiref.sync import sync_to_async
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from pgonly_django.database import testrun
from pgonly_django.database.connection import Connection
from pgonly_django.database.operation import Operation, arun, run
from pgonly_django.database.statement import Statement, Values

T = TypeVar("T")
_SAVEPOINT = b"SAVEPOINT pgonly_cache"
_RELEASE = b"RELEASE SAVEPOINT pgonly_cache"
_ROLL_BACK = b"ROLLBACK TO SAVEPOINT pgonly_cache; RELEASE SAVEPOINT pgonly_cache"

USE_ANOTHER_CACHE = (
    "PostgresCache keeps its entries there. A test that needs no database can be given another cache: "
    'override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}).'
)
STAY_IN_THE_TEST = (
    "For the cache, use `await cache.aget()` and its like in coroutines, and for threads a TransactionTestCase "
    "(in pytest-django: django_db(transaction=True))."
)


def testcase_connection_for(alias: str) -> TestcaseConnection | None:
    """The test's connection, where this thread is in a TestCase's transaction. Call it in a test run only.

    None in other tests that may use the database. Raises what Django raises in those that may not, and
    DatabaseOperationForbidden in the other threads of a TestCase.
    """
    connection = testrun.testcase_connection(alias)
    if connection is None:
        testrun.refuse_real_database(alias, USE_ANOTHER_CACHE)
        testrun.refuse_other_threads(alias, STAY_IN_THE_TEST)
        return None
    if connection.connection is None:
        connection.ensure_connection()
    if connection.connection.info.transaction_status == TransactionStatus.IDLE:
        # psycopg puts BEGIN before the first statement of its own, and ours are not.
        connection.connection.execute("SELECT 1")
    return TestcaseConnection(connection.connection.pgconn, timeout=10)


async def arun_in_place(alias: str, operation: Operation[T]) -> T:
    """arun(), but in a TestCase in the thread that has the test's transaction, as the ORM does it."""
    if not testrun.is_on() or testrun.testcase_connection(alias) is not None:
        return await arun(operation)
    if await sync_to_async(_is_borrowed)(alias):
        return await sync_to_async(run)(operation)
    return await arun(operation)


def _is_borrowed(alias: str) -> bool:
    return testcase_connection_for(alias) is not None


class TestcaseConnection(Connection):
    """Runs each statement in a savepoint, so that an error of ours leaves the test's transaction usable."""

    def call(self, statement: Statement, values: Values, timeout: float) -> Operation[PGresult]:
        self.prepares = False
        self.pgconn.exec_(_SAVEPOINT)
        try:
            result = yield from super().call(statement, values, max(timeout, 10))
        except BaseException:
            self.pgconn.exec_(_ROLL_BACK)
            raise
        self.pgconn.exec_(_RELEASE)
        return result

    async def ready(self) -> None:
        """Where an event loop runs in the test's thread: no other coroutine comes between, onto the same connection."""
        self.block()
