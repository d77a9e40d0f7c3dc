"""The writes that wait for a transaction's commit, and what a read inside it sees because of them.

They are kept in Django's own list of on_commit callbacks: it forgets what a rolled-back savepoint had added.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connections, transaction

from pgonly_django.cache.store import Store


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry as the transaction sees it. Until the commit its time does not run."""

    value: Callable[[], Any]
    milliseconds: float | None  # until it expires; None: never


Change = Callable[[Seen | None], Seen | None]


@dataclass(eq=False, slots=True)
class Pending:
    """A write that waits, and what it makes of the entries with these keys. `creates`: those it may create."""

    store: Store
    write: Callable[[], Any]
    change: Callable[[bytes, Seen | None], Seen | None]
    creates: Collection[bytes] = ()

    def apply(self) -> None:
        self.write()


class Journal:
    """Of one cache in the transactions of the database `using`."""

    def __init__(self, store: Store, using: str) -> None:
        self._store, self._using = store, using

    def is_open(self) -> bool:
        """True inside atomic(). Raises TransactionManagementError where transactions are managed by hand."""
        connection = connections[self._using]
        if connection.in_atomic_block:
            return True
        is_connected = connection.connection is not None
        if not (connection.autocommit if is_connected else connection.settings_dict["AUTOCOMMIT"]):
            raise transaction.TransactionManagementError(
                f"transactional() cannot follow a transaction that is managed by hand: autocommit is off in "
                f"{self._using!r}. Use atomic(), or the cache itself after the commit."
            )
        return False

    def add(self, pending: Pending) -> None:
        # Robust: the data is committed by then; a cache that fails is logged, and no reason to raise.
        transaction.on_commit(pending.apply, using=self._using, robust=True)

    def seen(self, key: bytes, before: Seen | None) -> Seen | None:
        """What is under the key, where the cache itself has `before`. None: nothing."""
        for pending in self._pending():
            before = pending.change(key, before)
        return before

    def created(self) -> set[bytes]:
        """The keys that the writes may have created."""
        return {key for pending in self._pending() for key in pending.creates}

    def _pending(self) -> Iterator[Pending]:
        for _, callback, *_ in connections[self._using].run_on_commit:
            pending = getattr(callback, "__self__", None)
            if isinstance(pending, Pending) and pending.store.is_same(self._store):
                yield pending
