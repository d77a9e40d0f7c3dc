"""Takes values in memory back when PostgreSQL takes the rows back: at a ROLLBACK, or a ROLLBACK TO a savepoint."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connections
from psycopg import errors
from psycopg.pq import TransactionStatus

from pgonly_django.context.run import Run
from pgonly_django.exceptions import LeaseLost

Snapshot = TypeVar("Snapshot")

_SAVEPOINT = re.compile(
    r'\s*(SAVEPOINT|RELEASE|ROLLBACK(?:\s+(?:WORK|TRANSACTION))?\s+TO)(?:\s+SAVEPOINT)?\s+("[^"]+"|\w+)',
    re.IGNORECASE,
)
T = TypeVar("T")
PAUSE_SECONDS = 0.5
CONFLICTS = (errors.SerializationFailure, errors.DeadlockDetected)


def is_in_transaction(connection: Any) -> bool:
    """Whether a write would wait for a later COMMIT: inside atomic(), or without autocommit."""
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def _has_failed(connection: Any) -> bool:
    """Whether a statement has failed in the transaction, which can only be rolled back now."""
    if connection.vendor != "postgresql" or connection.connection is None:
        return False
    status = connection.connection.info.transaction_status
    return status in (TransactionStatus.INERROR, TransactionStatus.UNKNOWN)


class RollbackTracker(Generic[Snapshot]):
    """Watches the transaction that is open on `connection`, until it ends.

    `take` makes a snapshot of the values in memory, `restore` puts one back, `committed` is called after a commit.
    Django tells of commits, not of rollbacks. So the tracker puts a mark among the connection's on_commit functions: a
    commit calls it, a rollback drops it. Savepoints, those of atomic() and hand-made ones, are seen in the statements.
    """

    def __init__(
        self,
        connection: Any,
        take: Callable[[], Snapshot],
        restore: Callable[[Snapshot], None],
        committed: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.before = take()  # without anything that this transaction may take back
        self._take, self._restore, self._committed = take, restore, committed
        self._savepoints: list[tuple[str, Snapshot]] = []
        self._has_ended = False
        self._has_failed = _has_failed(connection)
        self._mark, self._wrapper = self._commit, self._watch  # bound once: the mark is found by identity
        # At the start, outside of every savepoint; on_commit() would append it inside the present one.
        connection.run_on_commit.insert(0, (set(), self._mark, False))
        self._functions = connection.run_on_commit
        # At the start too: Django's execute_wrapper() removes the last one of the list, whichever it is.
        connection.execute_wrappers.insert(0, self._wrapper)

    def has_ended(self) -> bool:
        """Whether the transaction has ended. If it was rolled back, the values are restored now."""
        functions = self.connection.run_on_commit  # every commit and every rollback makes a new list
        if self._has_ended or functions is self._functions:
            return self._has_ended
        if any(function is self._mark for _, function, *_ in functions):
            self._functions = functions
            return False
        self.roll_back()
        return True

    def roll_back(self) -> None:
        """Restore the values from before the transaction, and watch no more."""
        self._stop()
        self._restore(self.before)

    def _commit(self) -> None:
        if self._has_failed:  # PostgreSQL answers COMMIT with a rollback then, and Django does not notice
            self.roll_back()
            return
        self._stop()
        self._committed()

    def _stop(self) -> None:
        self._has_ended = True
        if self._wrapper in self.connection.execute_wrappers:
            self.connection.execute_wrappers.remove(self._wrapper)

    def _watch(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        try:
            answer = execute(sql, params, many, context)
        except BaseException:
            self._has_failed = _has_failed(self.connection)
            raise
        match = _SAVEPOINT.match(sql) if isinstance(sql, str) else None
        if match:
            self._at_savepoint(match[1].upper(), match[2].strip('"'))
        return answer

    def _at_savepoint(self, verb: str, name: str) -> None:
        if verb == "SAVEPOINT":
            self._savepoints.append((name, self._take()))
            return
        # The latest of that name; -1: it is older than this tracker, so all that the tracker has seen is undone.
        place = max((at for at, (known, _) in enumerate(self._savepoints) if known == name), default=-1)
        if verb == "RELEASE":
            del self._savepoints[max(place, 0) :]
        else:
            self._has_failed = False
            self._restore(self._savepoints[place][1] if place >= 0 else self.before)
            del self._savepoints[place + 1 :]


def retry_while_down(run: Run, statement: Callable[..., T], *arguments: Any) -> T:
    """`statement(alias, *arguments)`, a function of queue.checkpoints, repeated until the database is back: the result
    of a paid call is not thrown away. These functions are fenced and do the same when they are repeated.

    Inside atomic() it raises, since the transaction is lost. A run that was asked to end raises its interruption
    instead of waiting; after a planned stop it waits until the grace is over.
    """
    while True:
        try:
            return statement(run.alias, *arguments)
        except LeaseLost:
            run.lease_lost = run.context_raised = True
            raise
        except (OperationalError, InterfaceError, InternalError) as error:
            connection = connections[run.alias]
            # Its own transaction met another one, as some do under SERIALIZABLE.
            if isinstance(error.__cause__, CONFLICTS) and not connection.in_atomic_block:
                continue
            if not _is_down(connection, error):
                raise
            if run.interruption is not None and not run.is_in_grace:
                run.context_raised = True
                raise run.interruption from error
            time.sleep(PAUSE_SECONDS)


def _is_down(connection: Any, error: Exception) -> bool:
    """Whether no primary answers, and the job has no transaction open. The next attempt uses a new connection."""
    if connection.in_atomic_block:
        return False
    is_standby = isinstance(error.__cause__, errors.ReadOnlySqlTransaction)  # during a failover
    if connection.connection is not None and not connection.connection.closed and not is_standby:
        return False
    connection.close()
    return True
