"""The writes that wait for a transaction's commit, and what a read inside it sees because of them.

They are in Django's list of on_commit callbacks, which drops those of a rolled-back savepoint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connections, transaction

from pgonly_django.cache.store import Store


@dataclass(frozen=True, slots=True)
class SeenEntry:
    """An entry as the transaction sees it. Its time to live begins at the commit."""

    value: Callable[[], Any]
    milliseconds: float | None  # until it expires; None: never


Change = Callable[[SeenEntry | None], SeenEntry | None]


@dataclass(eq=False, slots=True)
class PendingWrite:
    """`write` is done at the commit. `change` says what it makes of the entry with a key, None: nothing there."""

    store: Store
    write: Callable[[], Any]
    change: Callable[[bytes, SeenEntry | None], SeenEntry | None]
    creates: Collection[bytes]  # keys that may be new because of it

    def apply(self) -> None:
        self.write()


@dataclass(frozen=True, slots=True)
class PendingWrites:
    """Those of one cache in the transactions of the database `using`."""

    store: Store
    using: str

    def in_transaction(self) -> bool:
        """True inside atomic(). Raises TransactionManagementError where transactions are managed by hand."""
        connection = connections[self.using]
        if connection.in_atomic_block:
            return True
        is_connected = connection.connection is not None
        if not (connection.autocommit if is_connected else connection.settings_dict["AUTOCOMMIT"]):
            raise transaction.TransactionManagementError(
                f"transactional() cannot follow a transaction that is managed by hand: autocommit is off in "
                f"{self.using!r}. Use atomic(), or the cache itself after the commit."
            )
        return False

    def add(
        self,
        write: Callable[[], Any],
        change: Callable[[bytes, SeenEntry | None], SeenEntry | None],
        creates: Collection[bytes] = (),
    ) -> None:
        # robust: the data is committed by then, so a cache that fails is logged and raises nothing.
        pending = PendingWrite(self.store, write, change, creates)
        transaction.on_commit(pending.apply, using=self.using, robust=True)

    def seen(self, key: bytes, entry: SeenEntry | None) -> SeenEntry | None:
        """What is under the key for this transaction, where the cache itself has `entry`."""
        for pending in self._all():
            entry = pending.change(key, entry)
        return entry

    def created(self) -> set[bytes]:
        return {key for pending in self._all() for key in pending.creates}

    def _all(self) -> Iterator[PendingWrite]:
        for _, callback, *_ in connections[self.using].run_on_commit:
            pending = getattr(callback, "__self__", None)
            if isinstance(pending, PendingWrite) and pending.store.is_same(self.store):
                yield pending
