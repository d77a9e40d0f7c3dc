"""Inside Django's TestCase a pool uses the test's own connection: so a test rolls back what was written, and never
waits for a lock of the same transaction. Where Django forbids a test the database, so does the pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from pgonly_django.database import testrun
from pgonly_django.database.connection import Connection
from pgonly_django.database.operation import Operation
from pgonly_django.database.statement import Statement, Values

_SAVEPOINT = b"SAVEPOINT pgonly_call"
_RELEASE = b"RELEASE SAVEPOINT pgonly_call"
_ROLL_BACK = b"ROLLBACK TO SAVEPOINT pgonly_call; RELEASE SAVEPOINT pgonly_call"


# An attribute of a Django connection, where calls of pools on it have to be known: see testing/autocommit.py.
CALLS = "pgonly_pool_calls"


class CallWatch(Protocol):
    """Raises where the call may not be made, or what is to happen after it."""

    def before_call(self) -> None: ...

    def after_call(self, statement: Statement, values: Values) -> None: ...


@dataclass(frozen=True)
class Advice:
    """The texts that are added to the error where a test may not use a pool: because it may not use the database, or
    because another thread has its transaction."""

    without_database: str
    in_other_thread: str


def testcase_connection_for(alias: str, advice: Advice) -> TestcaseConnection | None:
    """Returns the test's connection, where this thread is in a TestCase's transaction; None in other tests that may use
    the database. Call it in a test run only. Raises what Django raises in tests that may not use it, and
    DatabaseOperationForbidden in the other threads of a TestCase.
    """
    connection = testrun.testcase_connection(alias)
    if connection is None:
        testrun.refuse_real_database(alias, advice.without_database)
        testrun.refuse_other_threads(alias, advice.in_other_thread)
        return None
    if connection.connection is None:
        connection.ensure_connection()
    if connection.connection.info.transaction_status == TransactionStatus.IDLE:
        # psycopg puts BEGIN before its own first statement, and ours are not.
        connection.connection.execute("SELECT 1")
    testcase = TestcaseConnection(connection.connection.pgconn, timeout=10)
    testcase.watch = getattr(connection, CALLS, None)
    return testcase


class TestcaseConnection(Connection):
    """Runs each statement in a savepoint, so that an error leaves the test's transaction usable."""

    watch: CallWatch | None = None

    def call(self, statement: Statement, values: Values, timeout: float) -> Operation[PGresult]:
        self.prepares = False
        if self.watch is not None:
            self.watch.before_call()
        self.pgconn.exec_(_SAVEPOINT)
        try:
            result = yield from super().call(statement, values, max(timeout, 10))
        except BaseException:
            self.pgconn.exec_(_ROLL_BACK)
            raise
        self.pgconn.exec_(_RELEASE)
        if self.watch is not None:
            self.watch.after_call(statement, values)
        return result

    async def ready(self) -> None:
        """Runs where an event loop runs in the test's thread: no other coroutine gets that connection then."""
        self.block()
