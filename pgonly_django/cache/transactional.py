"""cache.transactional(): a cache whose writes are done at the commit, and dropped by a rollback."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from inspect import isasyncgenfunction, isawaitable, iscoroutinefunction, isfunction
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from pgonly_django.cache.circular import computing, refuse_circular
from pgonly_django.cache.django_api import Timeout
from pgonly_django.cache.durations import moment, not_negative, positive
from pgonly_django.cache.entry import Row
from pgonly_django.cache.extended_api import ExtendedCache
from pgonly_django.cache.keys import as_regex, escape_glob, tag_names
from pgonly_django.cache.pending import Change, PendingWrites, SeenEntry
from pgonly_django.cache.single_flight import LOCK_TIMEOUT, NEVER_STALE
from pgonly_django.exceptions import ValueTooLargeError

_MISSING = object()
T = TypeVar("T", bound="type[TransactionalCache]")


def _for_use_in_atomic(kind: T) -> T:
    """The methods below are for inside of atomic(): outside of it each calls that of the cache itself.

    Each gets its async twin, which runs in the thread that has the transaction.
    """
    for name, method in tuple(vars(kind).items()):
        is_async = iscoroutinefunction(method) or isasyncgenfunction(method)
        if isfunction(method) and not is_async and name[0] != "_" and hasattr(ExtendedCache, name):
            chosen = _inside_or_outside(method)
            setattr(kind, name, chosen)
            if hasattr(ExtendedCache, f"a{name}") and f"a{name}" not in vars(kind):
                setattr(kind, f"a{name}", _async_twin(chosen))
    return kind


def _inside_or_outside(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: TransactionalCache, *args: Any, **kwargs: Any) -> Any:
        if self._pending.in_transaction():
            return method(self, *args, **kwargs)
        return getattr(self.cache, method.__name__)(*args, **kwargs)

    return call


def _async_twin(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: TransactionalCache, *args: Any, **kwargs: Any) -> Any:
        return await sync_to_async(method)(self, *args, **kwargs)

    call.__name__, call.__doc__ = f"a{method.__name__}", f"See {method.__name__}()."
    return call


@_for_use_in_atomic
class TransactionalCache(ExtendedCache):
    """The cache as one transaction sees it. Methods that are not here call those that are."""

    def __init__(self, cache: ExtendedCache, using: str) -> None:
        # The same store, settings and keys: a subclass of the cache may make them in another way.
        vars(self).update(vars(cache), make_key=cache.make_key)
        self.cache, self._pending = cache, PendingWrites(cache.store, using)

    def transactional(self, using: str | None = None) -> TransactionalCache:
        """See PostgresCache.transactional()."""
        return TransactionalCache(self.cache, using or self._pending.using)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        value = self.cache.get(key, _MISSING, version)
        seen = self._seen(key, version, None if value is _MISSING else _stored(value))
        return default if seen is None else seen.value()

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        keys = list(keys)
        stored = {key: _stored(value) for key, value in self.cache.get_many(keys, version).items()}
        seen = {key: self._seen(key, version, stored.get(key)) for key in keys}
        return {key: each.value() for key, each in seen.items() if each is not None}

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self._look(key, version) is not None

    def pttl(self, key: Any, version: int | None = None) -> int | None:
        """See ExtendedCache.pttl(). The time of what this transaction has written begins at the commit."""
        seen = self._look(key, version)
        if seen is None:
            return 0
        return None if seen.milliseconds is None else int(seen.milliseconds)

    def iter_keys(
        self, search: str, itersize: int | None = None, version: int | None = None
    ) -> Iterator[str]:
        stored = self._matching(self.pattern(search, version), itersize)
        return (self.name_of(key, version) for key in stored)

    async def aiter_keys(
        self, search: str, itersize: int | None = None, version: int | None = None
    ) -> AsyncIterator[str]:
        for key in await sync_to_async(lambda: list(self.iter_keys(search, itersize, version)))():
            yield key

    def set(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (), nx: bool = False, xx: bool = False,
    ) -> Any:  # fmt: skip
        """Serializes `value` now: later changes of it do not count, and what cannot be stored fails here.

        `nx` and `xx` are decided twice: now, by what this transaction sees, and by what is there at the commit.
        """
        if nx and xx:
            return self.cache.set(key, value, timeout, version, tags=tags, nx=nx, xx=xx)  # raises
        written = self._set_later(key, value, timeout, version, tags, nx=nx, xx=xx)
        return written if nx or xx else None

    def _set_later(
        self, key: Any, value: Any, timeout: Timeout, version: int | None, tags: Iterable[str],
        *, nx: bool = False, xx: bool = False, stale: float = 0,
    ) -> bool:  # fmt: skip
        try:
            row = self._row(key, value, timeout, version, tags, stale)
        except ValueTooLargeError as error:
            if not nx:
                self.delete(key, version)
            return self.failed(error, False, write=True)
        if (nx or xx) and self.has_key(key, version) == nx:
            return False
        if row is not None:
            operation = functools.partial(self.store.write, row, nx, xx)
            self._write(key, version, lambda: self._do(operation(), False, write=True), self._written(row))
        elif not nx:
            self.delete(key, version)
        return True

    def _row(
        self, key: Any, value: Any, timeout: Timeout, version: int | None, tags: Iterable[str], stale: float = 0
    ) -> Row | None:  # fmt: skip
        """What a set() would write; None where its timeout is over already. Raises what set() raises for it."""
        seconds = self.seconds_of(timeout)
        if seconds is not None and seconds <= 0:
            return None
        return self.store.row(self.stored_key(key, version), value, seconds, self._tags(tags), stale)

    def _written(self, row: Row | None) -> Change:
        if row is None:
            return _nothing
        seconds = None if row.seconds is None else float(row.seconds)
        entry = SeenEntry(lambda: self.store.value_of(row), None if seconds is None else seconds * 1000)
        return lambda _: entry

    def add(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> bool:  # fmt: skip
        """Decided now, by what this transaction sees; at the commit an entry that came since stays."""
        return self._set_later(key, value, timeout, version, tags, nx=True)

    def set_many(
        self, data: Mapping[Any, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> list[Any]:  # fmt: skip
        """See set(). At the commit it is one statement."""
        tags, rows, refused = tag_names(tags), dict[Any, Row | None](), dict[Any, ValueTooLargeError]()
        for key, value in data.items():
            try:
                rows[key] = self._row(key, value, timeout, version, tags)
            except ValueTooLargeError as error:
                refused[key] = error
        if refused:
            self.delete_many(refused, version)
        if rows:
            changes = {self.stored_key(key, version): self._written(row) for key, row in rows.items()}

            def write() -> None:
                value_of = self.store.value_of
                values = {key: None if row is None else value_of(row) for key, row in rows.items()}
                self.cache.set_many(values, timeout, version, tags=tags)

            self._pending.add(write, changes)
        for reason in refused.values():
            self.failed(reason, None, write=True)
        return list(refused)

    def touch(self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        seconds = self.seconds_of(timeout)
        left = None if seconds is None else seconds * 1000
        return self._expire(key, version, lambda: self.cache.touch(key, timeout, version), left)

    def expire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        left = (moment(when) - time.time()) * 1000
        return self._expire(key, version, lambda: self.cache.expire_at(key, when, version), left)

    def persist(self, key: Any, version: int | None = None) -> bool:
        seen = self._look(key, version)
        if seen is None or seen.milliseconds is None:
            return False
        return self._expire(key, version, lambda: self.cache.persist(key, version), None)

    def _expire(self, key: Any, version: int | None, write: Callable[[], Any], left: float | None) -> bool:
        if not self.has_key(key, version):
            return False

        def change(seen: SeenEntry | None) -> SeenEntry | None:
            if seen is None or (left is not None and left <= 0):
                return None
            return replace(seen, milliseconds=left)

        self._write(key, version, write, change)
        return True

    def get_and_touch(
        self, key: Any, default: Any = None, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        value = self.get(key, default, version)
        self.touch(key, timeout, version)
        return value

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """The sum as this transaction sees it; at the commit `delta` is added to what is there then."""
        value = self.get(key, _MISSING, version)
        if value is _MISSING:
            raise ValueError(f"Key {key!r} not found")
        total = value + delta

        def change(seen: SeenEntry | None) -> SeenEntry | None:
            return None if seen is None else replace(seen, value=lambda: total)

        self._write(key, version, lambda: self.cache.incr(key, delta, version), change)
        return total

    def get_or_set(
        self, key: Any, default: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, stale: float | timedelta = NEVER_STALE, lock_timeout: float | timedelta = LOCK_TIMEOUT,
        tags: Iterable[str] = (),
    ) -> Any:  # fmt: skip
        """Computes in this transaction, from what only it sees: no other caller waits for the value or gets it.

        `stale` counts from the commit on; `lock_timeout` has no effect.
        """
        stale, _ = not_negative(stale, "stale"), positive(lock_timeout, "lock_timeout")
        value = self.get(key, _MISSING, version)
        if value is _MISSING:
            value = self._computation(key, default, version)()
            self._set_later(key, value, timeout, version, tags, stale=stale)
        return value

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, stale: float | timedelta = NEVER_STALE, lock_timeout: float | timedelta = LOCK_TIMEOUT,
        tags: Iterable[str] = (),
    ) -> Any:  # fmt: skip
        """See get_or_set(). `default` may be an async function."""
        if not await sync_to_async(self._pending.in_transaction)():
            return await self.cache.aget_or_set(
                key, default, timeout, version, stale=stale, lock_timeout=lock_timeout, tags=tags
            )
        stale, _ = not_negative(stale, "stale"), positive(lock_timeout, "lock_timeout")
        value = await self.aget(key, _MISSING, version)
        if value is _MISSING:
            value = self._computation(key, default, version)()
            value = await value if isawaitable(value) else value
            await sync_to_async(self._set_later)(key, value, timeout, version, tags, stale=stale)
        return value

    def _computation(self, key: Any, default: Any, version: int | None) -> Callable[[], Any]:
        stored = self.stored_key(key, version)
        place, name = ("in a transaction", *self.store.place(stored)), self.store.name(stored)
        refuse_circular(place, name)
        return computing(place, name, default if callable(default) else lambda: default)

    def delete(self, key: Any, version: int | None = None) -> bool:
        found = self.has_key(key, version)
        self._write(key, version, lambda: self.cache.delete(key, version), _nothing)
        return found

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> int:  # type: ignore[override]  # see DjangoCache
        keys = list(keys)
        found = len(self.get_many(keys, version))
        stored = {self.stored_key(key, version): _nothing for key in keys}
        self._pending.add(lambda: self.cache.delete_many(keys, version), stored)
        return found

    def delete_pattern(
        self, pattern: str, version: int | None = None, prefix: str | None = None, itersize: int | None = None
    ) -> int:
        glob = self.pattern(pattern, version, prefix)
        return self._delete_matching(
            glob, lambda: self.cache.delete_pattern(pattern, version, prefix, itersize), itersize
        )

    def clear_prefix(self, prefix: str) -> int:
        return self._delete_matching(f"{escape_glob(prefix)}*", lambda: self.cache.clear_prefix(prefix))

    def _delete_matching(self, glob: str, write: Callable[[], Any], itersize: int | None = None) -> int:
        found, regex = len(self._matching(glob, itersize)), self._regex(glob)
        self._pending.add(write, {}, lambda key: regex.fullmatch(key.decode()) is not None)
        return found

    def delete_tags(self, *tags: str) -> int | None:  # type: ignore[override]  # its count is known at the commit
        """None. Until the commit this transaction sees no entry at all that it has not written since."""
        tag_names(tags)
        self._pending.add(lambda: self.cache.delete_tags(*tags), {}, lambda _: True)
        return None

    def clear(self) -> None:
        self._pending.add(self.cache.clear, {}, lambda _: True)

    def _write(self, key: Any, version: int | None, write: Callable[[], Any], change: Change) -> None:
        self._pending.add(write, {self.stored_key(key, version): change})

    def _look(self, key: Any, version: int | None) -> SeenEntry | None:
        """Whether there is an entry, and for how long."""
        left = self.cache.pttl(key, version)
        return self._seen(key, version, None if left == 0 else SeenEntry(lambda: None, left))

    def _seen(self, key: Any, version: int | None, stored: SeenEntry | None) -> SeenEntry | None:
        return self._pending.seen(self.stored_key(key, version), stored)

    def _matching(self, glob: str, itersize: int | None = None) -> list[bytes]:
        """The stored keys that this transaction sees, in their order."""
        stored, regex = set(self.cache.stored_keys(glob, itersize)), self._regex(glob)
        mine = {key for key in self._pending.changed() if regex.fullmatch(key.decode())}
        entry = _stored(None)
        seen = self._pending.seen
        return [key for key in sorted(stored | mine) if seen(key, entry if key in stored else None)]

    def _regex(self, glob: str) -> re.Pattern[str]:
        return re.compile(as_regex(escape_glob(self.store.namespace) + glob), re.DOTALL)


def _stored(value: Any) -> SeenEntry:
    return SeenEntry(lambda: value, None)


def _nothing(_: SeenEntry | None) -> None:
    """The change that a deletion makes."""
