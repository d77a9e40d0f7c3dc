"""Follows a transaction of the job's: what a rollback takes from the database is taken from memory as well."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from psycopg.pq import TransactionStatus

Snapshot = TypeVar("Snapshot")

_SAVEPOINT = re.compile(
    r'\s*(SAVEPOINT|RELEASE|ROLLBACK(?:\s+(?:WORK|TRANSACTION))?\s+TO)(?:\s+SAVEPOINT)?\s+("[^"]+"|\w+)',
    re.IGNORECASE,
)


def is_in_transaction(connection: Any) -> bool:
    """Whether what is written now is not committed at once: inside atomic(), or without autocommit."""
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def _has_failed(connection: Any) -> bool:
    """Whether a statement has failed in the transaction, which can only be rolled back now."""
    if connection.vendor != "postgresql" or connection.connection is None:
        return False
    status = connection.connection.info.transaction_status
    return status in (TransactionStatus.INERROR, TransactionStatus.UNKNOWN)


class Follower(Generic[Snapshot]):
    """From its making on, until the transaction that is open on `connection` is over.

    `take` makes a snapshot of the memory, `put_back` restores one. Django tells of no rollback. The end of the
    transaction is known by a mark among its on_commit functions: a commit calls it, a rollback drops it. Savepoints,
    those of atomic() and hand-made ones, are known by their statements.
    """

    def __init__(
        self,
        connection: Any,
        take: Callable[[], Snapshot],
        put_back: Callable[[Snapshot], None],
        committed: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.base = take()  # before everything that this transaction may take back
        self._take, self._put_back, self._committed = take, put_back, committed
        self._savepoints: list[tuple[str, Snapshot]] = []
        self._is_over = False
        self._is_failed = _has_failed(connection)
        self._mark, self._wrapper = self._commit, self._watch
        # First of all and outside of every savepoint, other than on_commit() would place it.
        connection.run_on_commit.insert(0, (set(), self._mark, False))
        self._functions = connection.run_on_commit
        # Likewise: at the end of the list Django's execute_wrapper() takes away the last one, whosever it is.
        connection.execute_wrappers.insert(0, self._wrapper)

    def is_over(self) -> bool:
        """Whether the transaction has ended. If by a rollback, the memory is put back now."""
        functions = self.connection.run_on_commit
        if self._is_over or functions is self._functions:  # every rollback, every commit makes it a new list
            return self._is_over
        if any(function is self._mark for _, function, *_ in functions):
            self._functions = functions
            return False
        self.give_up()
        return True

    def give_up(self) -> None:
        """Put the memory back to before the transaction, and follow no more."""
        self._end()
        self._put_back(self.base)

    def _commit(self) -> None:
        if self._is_failed:  # PostgreSQL answers COMMIT with a rollback then, and Django does not notice
            self.give_up()
            return
        self._end()
        self._committed()

    def _end(self) -> None:
        self._is_over = True
        if self._wrapper in self.connection.execute_wrappers:
            self.connection.execute_wrappers.remove(self._wrapper)

    def _watch(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        try:
            answer = execute(sql, params, many, context)
        except BaseException:
            self._is_failed = _has_failed(self.connection)
            raise
        match = _SAVEPOINT.match(sql) if isinstance(sql, str) else None
        if match:
            self._hear(match[1].upper(), match[2].strip('"'))
        return answer

    def _hear(self, verb: str, name: str) -> None:
        if verb == "SAVEPOINT":
            self._savepoints.append((name, self._take()))
            return
        place = self._place_of(name)
        if verb == "RELEASE":
            del self._savepoints[max(place, 0) :]
        else:
            self._is_failed = False
            # To one that is older than this follower: everything it has seen is undone.
            self._put_back(self._savepoints[place][1] if place >= 0 else self.base)
            del self._savepoints[place + 1 :]

    def _place_of(self, name: str) -> int:
        """Of the latest savepoint of that name; -1 when it was made before this follower was."""
        places = (place for place, (known, _) in enumerate(self._savepoints) if known == name)
        return max(places, default=-1)
