"""Inside Django's TestCase the cache uses the test's own connection, so that a test rolls back what it cached
and never waits for a lock of its own transaction.
"""

from __future__ import annotations

import sys
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.db import connections
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from pgonly_django.cache.drive import Operation, arun, run
from pgonly_django.cache.link import Link, Params
from pgonly_django.cache.statement import Prepared

T = TypeVar("T")
_SAVEPOINT = b"SAVEPOINT pgonly_cache"
_RELEASE = b"RELEASE SAVEPOINT pgonly_cache"
_ROLL_BACK = b"ROLLBACK TO SAVEPOINT pgonly_cache; RELEASE SAVEPOINT pgonly_cache"


def borrowed(alias: str) -> BorrowedLink | None:
    """The connection of the test whose TestCase transaction this thread is in, if it is in one."""
    if not may_be_in_a_test():
        return None
    connection = connections[alias]
    if not any(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
        return None
    connection.ensure_connection()
    if connection.connection.info.transaction_status == TransactionStatus.IDLE:
        # psycopg puts BEGIN before the first statement of its own, and ours are not.
        connection.connection.execute("SELECT 1")
    return BorrowedLink(connection.connection.pgconn, timeout=10)


def is_in_a_test(alias: str) -> bool:
    return borrowed(alias) is not None


async def arun_in_place(alias: str, operation: Operation[T]) -> T:
    """arun(), but in a TestCase in the thread that has the test's transaction, as the ORM does it."""
    if may_be_in_a_test() and await sync_to_async(is_in_a_test)(alias):
        return await sync_to_async(run)(operation)
    return await arun(operation)


def may_be_in_a_test() -> bool:
    return "django.test.testcases" in sys.modules


class BorrowedLink(Link):
    """Runs each statement in a savepoint, so that an error of ours leaves the test's transaction usable."""

    def call(self, statement: Prepared, params: Params, timeout: float) -> Operation[PGresult]:
        self.prepares = False
        self.pgconn.exec_(_SAVEPOINT)
        try:
            result = yield from super().call(statement, params, max(timeout, 10))
        except BaseException:
            self.pgconn.exec_(_ROLL_BACK)
            raise
        self.pgconn.exec_(_RELEASE)
        return result
