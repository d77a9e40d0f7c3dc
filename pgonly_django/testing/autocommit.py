"""Inside a TestCase's transaction, code runs as in a worker: as if each of its statements, and each of its outermost
atomic() blocks, were committed.

Django's own state machine does the work. It is told that no transaction is open, and what it would send as BEGIN,
COMMIT and ROLLBACK becomes a savepoint. So on_commit() functions run at the end of the job's own atomic(), what a job
wrote before it failed stays, and a statement that fails leaves the test's transaction usable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from django.db import connections
from psycopg.pq import TransactionStatus

# Of Django's connection: the state that a connection without a transaction has.
_NO_TRANSACTION: dict[str, Any] = {
    "in_atomic_block": False,
    "autocommit": True,
    "commit_on_exit": True,
    "needs_rollback": False,
    "run_commit_hooks_on_set_autocommit_on": False,
}
_LISTS = ("atomic_blocks", "savepoint_ids", "run_on_commit", "execute_wrappers")
# What each database backend overrides; the last one is SQLite's.
_METHODS = ("_set_autocommit", "_commit", "_rollback", "close", "_start_transaction_under_autocommit")
_WHOLE, _TRANSACTION, _STATEMENT = "pgonly_drain", "pgonly_drain_transaction", "pgonly_drain_statement"
_READS = ("SELECT", "SAVEPOINT", "RELEASE", "ROLLBACK")


@contextmanager
def as_in_autocommit() -> Iterator[list[str]]:
    """For all connections of this thread. What the code leaves open is rolled back at the end: the list has the
    aliases where it had written in such a transaction."""
    lost: list[str] = []
    with ExitStack() as ends:
        in_transaction = [each for each in connections.all(initialized_only=True) if _is_in_transaction(each)]
        ends.callback(_close_what_is_open, [each.alias for each in in_transaction], lost)
        for connection in in_transaction:
            ends.enter_context(_simulated(connection, lost))
        yield lost


def _is_in_transaction(connection: Any) -> bool:
    """Of a test. A job that is drained in one, and drains others itself, is told that it is in none."""
    return connection.in_atomic_block or "_set_autocommit" in vars(connection)


@contextmanager
def _simulated(connection: Any, lost: list[str]) -> Iterator[None]:
    state = vars(connection)
    before = {name: state[name] for name in (*_NO_TRANSACTION, *_LISTS, *_METHODS) if name in state}
    commits = _SimulatedCommits(connection)
    commits.begin()
    try:
        yield
    finally:
        try:
            if commits.end():
                lost.append(connection.alias)
        finally:
            for name in _METHODS:
                state.pop(name, None)
            state.update(before)


class _SimulatedCommits:
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._is_begun = False  # a transaction of the job, which is a savepoint
        self._has_written = False  # in it

    def begin(self) -> None:
        connection = self.connection
        self._send("SAVEPOINT", _WHOLE)
        # Those of the test stay: the cache and others look for the mark of a TestCase in them.
        blocks = [block for block in connection.atomic_blocks if block._from_testcase]  # noqa: SLF001 - Django's sign
        vars(connection).update(_NO_TRANSACTION, atomic_blocks=blocks, savepoint_ids=[], run_on_commit=[])
        # Django's list keeps its identity for wrappers that are entered around the drain.
        connection.execute_wrappers = [self._execute, *connection.execute_wrappers]
        connection._set_autocommit = self._set_autocommit  # noqa: SLF001 - what each database backend overrides
        connection._commit = self._commit  # noqa: SLF001 - likewise
        connection._rollback = self._rollback  # noqa: SLF001 - likewise
        connection.close = lambda: None  # the next statement of a job would connect again
        if hasattr(connection, "_start_transaction_under_autocommit"):  # SQLite
            connection._start_transaction_under_autocommit = self._begin  # noqa: SLF001 - likewise

    def end(self) -> bool:
        """Whether rows are lost: the job left a transaction open, or in such a state that it cannot go on."""
        is_lost = self._is_begun and self._has_written
        if self._is_begun:
            self._rollback()
        if self._is_broken:
            is_lost = True
            self._send("ROLLBACK TO SAVEPOINT", _WHOLE)
        self._send("RELEASE SAVEPOINT", _WHOLE)
        return is_lost

    @property
    def _is_broken(self) -> bool:
        """Whether PostgreSQL takes no statement before a rollback."""
        connection = self.connection
        if connection.vendor != "postgresql":
            return False
        return bool(connection.connection.info.transaction_status == TransactionStatus.INERROR)

    def _execute(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Around each statement of Django's cursors."""
        if not self.connection.autocommit:
            if not self._is_begun:  # the job has switched autocommit off, and has committed once
                self._begin()
            self._has_written |= not str(sql).lstrip().upper().startswith(_READS)
            return execute(sql, params, many, context)
        self._send("SAVEPOINT", _STATEMENT)
        try:
            answer = execute(sql, params, many, context)
        except BaseException:
            self._send("ROLLBACK TO SAVEPOINT", _STATEMENT)
            self._send("RELEASE SAVEPOINT", _STATEMENT)
            raise
        self._send("RELEASE SAVEPOINT", _STATEMENT)
        return answer

    def _begin(self) -> None:
        self._send("SAVEPOINT", _TRANSACTION)
        self._is_begun, self._has_written = True, False

    def _set_autocommit(self, autocommit: bool) -> None:
        if not autocommit:
            self._begin()
        elif self._is_begun:
            self._commit()

    def _commit(self) -> None:
        """A transaction in which a statement has failed is rolled back, as PostgreSQL does at its COMMIT."""
        if self._is_broken:
            self._rollback()
        elif self._is_begun:
            self._send("RELEASE SAVEPOINT", _TRANSACTION)
            self._is_begun = False

    def _rollback(self) -> None:
        if self._is_begun:
            self._send("ROLLBACK TO SAVEPOINT", _TRANSACTION)
            self._send("RELEASE SAVEPOINT", _TRANSACTION)
            self._is_begun = False

    def _send(self, verb: str, savepoint: str) -> None:
        """Not by Django's cursor: queries that a test counts are those of the job."""
        with closing(self.connection.connection.cursor()) as cursor:
            cursor.execute(f"{verb} {savepoint}")


def _close_what_is_open(simulated: list[str], lost: list[str]) -> None:
    """Outside of a TestCase, a transaction that a job leaves open is a real one: its connection is closed."""
    for connection in list(connections.all(initialized_only=True)):
        if connection.alias not in simulated and _has_transaction(connection):
            lost.append(connection.alias)
            connection.close()
            del connections[connection.alias]


def _has_transaction(connection: Any) -> bool:
    if connection.connection is None:
        return False
    if connection.in_atomic_block or not connection.autocommit:
        return True
    if connection.vendor != "postgresql":
        return False
    return bool(connection.connection.info.transaction_status != TransactionStatus.IDLE)
