"""The writes that wait for a transaction's commit, and what a read inside it sees because of them.

They are in Django's list of on_commit callbacks, which drops those of a rolled-back savepoint.
"""

from collections.abc import Callable, Iterator, Mapping
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


def no_key(_: bytes) -> bool:
    return False


@dataclass(eq=False, slots=True)
class PendingWrite:
    """`write` is done at the commit. It changes the entries with some keys, and deletes those that `deletes` names."""

    store: Store
    write: Callable[[], Any]
    changes: Mapping[bytes, Change]
    deletes: Callable[[bytes], bool]

    def apply(self) -> None:
        self.write()

    def after(self, key: bytes, entry: SeenEntry | None) -> SeenEntry | None:
        """What the write makes of `entry`; None: there is none."""
        if key in self.changes:
            return self.changes[key](entry)
        return None if self.deletes(key) else entry


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
        self, write: Callable[[], Any], changes: Mapping[bytes, Change], deletes: Callable[[bytes], bool] = no_key
    ) -> None:  # fmt: skip
        # robust: the data is committed by then, so a cache that fails is logged and raises nothing.
        pending = PendingWrite(self.store, write, changes, deletes)
        transaction.on_commit(pending.apply, using=self.using, robust=True)

    def seen(self, key: bytes, entry: SeenEntry | None) -> SeenEntry | None:
        """What is under the key for this transaction, where the cache itself has `entry`."""
        for pending in self._all():
            entry = pending.after(key, entry)
        return entry

    def changed(self) -> set[bytes]:
        """All keys that may be new in this transaction."""
        return {key for pending in self._all() for key in pending.changes}

    def _all(self) -> Iterator[PendingWrite]:
        for _, callback, *_ in connections[self.using].run_on_commit:
            pending = getattr(callback, "__self__", None)
            if isinstance(pending, PendingWrite) and pending.store.is_same(self.store):
                yield pending
