"""cache.transactional(): writes that wait for the commit and vanish with the rollback.

The journal is Django's own list of on_commit callbacks: it forgets what a rolled-back savepoint had added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.db import connections, transaction

from pgonly_django.cache.keys import tag_names

if TYPE_CHECKING:
    from pgonly_django.cache.backend import PostgresCache


_MISSING = object()
Keep = Callable[[bytes, Any], Any]


@dataclass(eq=False, slots=True)
class Pending:
    """A write that waits. `seen` is what a read of a key gives after it: of the value before, or _MISSING."""

    cache: PostgresCache
    write: Callable[[], Any]
    seen: Keep

    def apply(self) -> None:
        self.write()


class TransactionalCache(BaseCache):
    """The cache as one transaction sees it. Outside of atomic() it is the cache itself."""

    def __init__(self, cache: PostgresCache, using: str) -> None:
        super().__init__({})
        self._cache, self._using = cache, using

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        value = self._seen(key, self._cache.get(key, _MISSING, version), version)
        return default if value is _MISSING else value

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        keys = list(keys)
        stored = self._cache.get_many(keys, version)
        seen = {key: self._seen(key, stored.get(key, _MISSING), version) for key in keys}
        return {key: value for key, value in seen.items() if value is not _MISSING}

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self.get(key, _MISSING, version) is not _MISSING

    def set(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> None:  # fmt: skip
        kept, over = tag_names(tags), timeout is not DEFAULT_TIMEOUT and timeout is not None and timeout <= 0
        self._later(
            lambda: self._cache.set(key, value, timeout, version, tags=kept),
            self._only(key, version, lambda _: _MISSING if over else value),
        )

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> bool:  # fmt: skip
        """Decided now, by what this transaction sees; at the commit an entry that came meanwhile stays."""
        if self.has_key(key, version):
            return False
        kept = tag_names(tags)
        self._later(
            lambda: self._cache.add(key, value, timeout, version, tags=kept),
            self._only(key, version, lambda _: value),
        )
        return True

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        found = self.has_key(key, version)
        if found:
            self._later(lambda: self._cache.touch(key, timeout, version), lambda _, value: value)
        return found

    def delete(self, key: Any, version: int | None = None) -> bool:
        found = self.has_key(key, version)
        self._later(lambda: self._cache.delete(key, version), self._only(key, version, lambda _: _MISSING))
        return found

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """The sum as this transaction sees it; at the commit `delta` is added to what is there then."""
        value = self.get(key, _MISSING, version)
        if value is _MISSING:
            raise ValueError(f"Key {key!r} not found")
        total = value + delta
        self._later(lambda: self._cache.incr(key, delta, version), self._only(key, version, lambda _: total))
        return total

    def get_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> Any:  # fmt: skip
        """Computed in this transaction, from what only it sees: so nobody else is given the value yet."""
        value = self.get(key, _MISSING, version)
        if value is _MISSING:
            value = default() if callable(default) else default
            self.set(key, value, timeout, version, tags=tags)
        return value

    def delete_tags(self, *tags: str) -> None:
        """Until the commit this transaction sees no entry at all that it has not written since."""
        self._later(lambda: self._cache.delete_tags(*tags), lambda _, __: _MISSING)

    def clear(self) -> None:
        self._later(self._cache.clear, lambda _, __: _MISSING)

    def _later(self, write: Callable[[], Any], seen: Keep) -> None:
        pending = Pending(self._cache, write, seen)
        if connections[self._using].in_atomic_block:
            # Robust: the data is committed by then; a cache that fails is logged, and no reason to raise.
            transaction.on_commit(pending.apply, using=self._using, robust=True)
        else:
            write()

    def _only(self, key: Any, version: int | None, change: Callable[[Any], Any]) -> Keep:
        changed = self._cache.stored_key(key, version)
        return lambda stored, value: change(value) if stored == changed else value

    def _seen(self, key: Any, value: Any, version: int | None) -> Any:
        stored = self._cache.stored_key(key, version)
        for _, callback, *_ in connections[self._using].run_on_commit:
            pending = getattr(callback, "__self__", None)
            if isinstance(pending, Pending) and pending.cache.store.is_same(self._cache.store):
                value = pending.seen(stored, value)
        return value
