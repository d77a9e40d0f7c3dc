"""cache.transactional(): all that the cache does, with writes that wait for the commit and vanish with the rollback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from pgonly_django.cache.circular import computing, refuse_circular
from pgonly_django.cache.durations import milliseconds, moment, not_negative, positive
from pgonly_django.cache.entry import Row
from pgonly_django.cache.journal import Change, Pending, Seen
from pgonly_django.cache.keys import escape_glob, tag_names
from pgonly_django.cache.lock import Lock
from pgonly_django.cache.single_flight import LOCK_TIMEOUT, NEVER_STALE
from pgonly_django.cache.transaction_view import MISSING, TransactionView, inside, twin
from pgonly_django.exceptions import ValueTooLargeError

if TYPE_CHECKING:
    from pgonly_django.cache.django_api import Timeout


class TransactionalCache(TransactionView):
    """The cache as one transaction sees it. Outside of atomic() it is the cache itself."""

    @inside
    def set(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (), nx: bool = False, xx: bool = False,
    ) -> Any:  # fmt: skip
        """What `value` is now counts, whatever becomes of it until the commit; and it fails here if at all.

        `nx` and `xx` are decided twice: now, by what this transaction sees, and by what is there at the commit.
        """
        if nx and xx:
            return self.cache.set(key, value, timeout, version, tags=tags, nx=nx, xx=xx)  # raises
        if nx:
            return self.add(key, value, timeout, version, tags=tags)
        if xx and not self.has_key(key, version):
            return False
        self._set(key, value, timeout, version, tags, self.cache.write_if_live if xx else self.cache.write)
        return True if xx else None

    aset = twin(set)  # noqa: A003 - the method above is meant

    def _set(
        self, key: Any, value: Any, timeout: Timeout, version: int | None, tags: Iterable[str],
        write: Callable[[Row], Any], stale: float = 0,
    ) -> None:  # fmt: skip
        try:
            row = self.cache.row(key, value, timeout, version, tags, stale)
        except ValueTooLargeError as error:
            self.delete(key, version)
            return self.cache.failed(error, None, write=True)
        if row is None:
            self.delete(key, version)
        else:
            self._write(key, version, lambda: write(row), self._written(row))
        return None

    def _written(self, row: Row) -> Change:
        entry = Seen(
            lambda: self.cache.store.value_of(row), None if row.seconds is None else float(row.seconds) * 1000
        )
        return lambda _: entry

    @inside
    def add(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> bool:  # fmt: skip
        """Decided now, by what this transaction sees; at the commit an entry that came since stays."""
        row = self.cache.row(key, value, timeout, version, tags)
        if self.has_key(key, version):
            return False
        if row is not None:
            self._write(key, version, lambda: self.cache.write_if_none(row), self._written(row))
        return True

    aadd = twin(add)

    @inside
    def set_many(
        self, data: Mapping[Any, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> list[Any]:  # fmt: skip
        """See set(). At the commit it is one statement."""
        rows, refused = {}, {}
        for key, value in data.items():
            try:
                rows[key] = self.cache.row(key, value, timeout, version, tags)
            except ValueTooLargeError as error:
                refused[key] = error
        if refused:
            self.delete_many(refused, version)
        stored = {self.cache.stored_key(key, version): row for key, row in rows.items()}
        if rows:
            self._add_set_many(stored, lambda: self._set_rows(rows, timeout, version, tuple(tags)))
        for reason in refused.values():
            self.cache.failed(reason, None, write=True)
        return list(refused)

    aset_many = twin(set_many)

    def _add_set_many(self, rows: Mapping[bytes, Row | None], write: Callable[[], Any]) -> None:
        changes = {key: (lambda _: None) if row is None else self._written(row) for key, row in rows.items()}

        def change(key: bytes, seen: Seen | None) -> Seen | None:
            return changes[key](seen) if key in changes else seen

        self.journal.add(Pending(self.cache.store, write, change, creates=rows.keys()))

    def _set_rows(
        self, rows: Mapping[Any, Row | None], timeout: Timeout, version: int | None, tags: Iterable[str]
    ) -> None:
        value_of = self.cache.store.value_of
        data = {key: None if row is None else value_of(row) for key, row in rows.items()}
        self.cache.set_many(data, timeout, version, tags=tags)

    @inside
    def touch(self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        seconds = self.cache.seconds_of(timeout)
        left = None if seconds is None else seconds * 1000
        return self._expire(key, version, lambda: self.cache.touch(key, timeout, version), left)

    atouch = twin(touch)

    def _expire(self, key: Any, version: int | None, write: Callable[[], Any], left: float | None) -> bool:
        if not self.has_key(key, version):
            return False

        def change(seen: Seen | None) -> Seen | None:
            if seen is None or (left is not None and left <= 0):
                return None
            return replace(seen, milliseconds=left)

        self._write(key, version, write, change, creates=False)
        return True

    @inside
    def expire(self, key: Any, timeout: Timeout, version: int | None = None) -> bool:
        return self.touch(key, timeout, version)

    aexpire = twin(expire)

    @inside
    def pexpire(self, key: Any, timeout: Timeout, version: int | None = None) -> bool:
        return self.touch(key, milliseconds(timeout), version)

    apexpire = twin(pexpire)

    @inside
    def expire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        left = (moment(when) - time.time()) * 1000
        return self._expire(key, version, lambda: self.cache.expire_at(key, when, version), left)

    aexpire_at = twin(expire_at)

    @inside
    def pexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        return self.expire_at(key, moment(when, units=1000), version)

    apexpire_at = twin(pexpire_at)

    @inside
    def persist(self, key: Any, version: int | None = None) -> bool:
        seen = self._look(key, version)
        if seen is None or seen.milliseconds is None:
            return False
        return self._expire(key, version, lambda: self.cache.persist(key, version), None)

    apersist = twin(persist)

    @inside
    def get_and_touch(
        self, key: Any, default: Any = None, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        value = self.get(key, default, version)
        self.touch(key, timeout, version)
        return value

    aget_and_touch = twin(get_and_touch)

    @inside
    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """The sum as this transaction sees it; at the commit `delta` is added to what is there then."""
        value = self.get(key, MISSING, version)
        if value is MISSING:
            raise ValueError(f"Key {key!r} not found")
        total = value + delta

        def change(seen: Seen | None) -> Seen | None:
            return None if seen is None else replace(seen, value=lambda: total)

        self._write(key, version, lambda: self.cache.incr(key, delta, version), change, creates=False)
        return total

    aincr = twin(incr)

    @inside
    def decr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """See incr()."""
        return self.incr(key, -delta, version)

    adecr = twin(decr)

    @inside
    def get_or_set(
        self, key: Any, default: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, stale: float | timedelta = NEVER_STALE, lock_timeout: float | timedelta = LOCK_TIMEOUT,
        tags: Iterable[str] = (),
    ) -> Any:  # fmt: skip
        """Computed in this transaction, from what only it sees: so no other caller waits for it or is given it.

        `stale` counts from the commit on; `lock_timeout` has no effect.
        """
        spare = self._spare_time(stale, lock_timeout)
        value = self.get(key, MISSING, version)
        if value is MISSING:
            value = self._computation(key, default, version)()
            self._set(key, value, timeout, version, tags, self.cache.write, spare)
        return value

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, stale: float | timedelta = NEVER_STALE, lock_timeout: float | timedelta = LOCK_TIMEOUT,
        tags: Iterable[str] = (),
    ) -> Any:  # fmt: skip
        """See get_or_set(). `default` may be an async function."""
        if not await sync_to_async(self.journal.is_open)():
            return await self.cache.aget_or_set(
                key, default, timeout, version, stale=stale, lock_timeout=lock_timeout, tags=tags
            )
        spare = self._spare_time(stale, lock_timeout)
        value = await self.aget(key, MISSING, version)
        if value is MISSING:
            value = self._computation(key, default, version)()
            value = await value if isawaitable(value) else value
            await sync_to_async(self._set)(key, value, timeout, version, tags, self.cache.write, spare)
        return value

    @staticmethod
    def _spare_time(stale: float | timedelta, lock_timeout: float | timedelta) -> float:
        positive(lock_timeout, "lock_timeout")
        return not_negative(stale, "stale")

    def _computation(self, key: Any, default: Any, version: int | None) -> Callable[[], Any]:
        stored = self.cache.stored_key(key, version)
        place, name = ("in a transaction", *self.cache.store.place(stored)), self.cache.store.name(stored)
        refuse_circular(place, name)
        return computing(place, name, default if callable(default) else lambda: default)

    @inside
    def delete(self, key: Any, version: int | None = None) -> bool:
        found = self.has_key(key, version)
        self._write(key, version, lambda: self.cache.delete(key, version), lambda _: None, creates=False)
        return found

    adelete = twin(delete)

    @inside
    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> int:  # type: ignore[override]  # see PostgresCache
        keys = list(keys)
        found = len(self.get_many(keys, version))
        stored = {self.cache.stored_key(key, version) for key in keys}
        self._remove(lambda: self.cache.delete_many(keys, version), stored.__contains__)
        return found

    adelete_many = twin(delete_many)

    @inside
    def delete_pattern(
        self, pattern: str, version: int | None = None, prefix: str | None = None, itersize: int | None = None
    ) -> int:
        glob = self.cache.pattern(pattern, version, prefix)
        return self._remove_matching(
            glob, lambda: self.cache.delete_pattern(pattern, version, prefix, itersize), itersize
        )

    adelete_pattern = twin(delete_pattern)

    @inside
    def clear_prefix(self, prefix: str) -> int:
        return self._remove_matching(f"{escape_glob(prefix)}*", lambda: self.cache.clear_prefix(prefix))

    @inside
    def delete_tags(self, *tags: str) -> int | None:
        """None: how many it will be is known at the commit.

        Until then this transaction sees no entry at all that it has not written since.
        """
        tag_names(tags)
        self._remove(lambda: self.cache.delete_tags(*tags), lambda _: True)
        return None

    adelete_tags = twin(delete_tags)

    @inside
    def clear(self) -> None:
        self._remove(self.cache.clear, lambda _: True)

    aclear = twin(clear)

    def lock(self, key: Any, *args: Any, **kwargs: Any) -> Lock:
        """See PostgresCache.lock(): a lock is taken at once, and no rollback releases it."""
        return self.cache.lock(key, *args, **kwargs)

    def transactional(self, using: str | None = None) -> TransactionalCache:
        """See PostgresCache.transactional()."""
        return TransactionalCache(self.cache, using or self._using)

    def _remove_matching(self, glob: str, write: Callable[[], Any], itersize: int | None = None) -> int:
        found, regex = len(self._matching(glob, itersize)), self._regex(glob)
        self._remove(write, lambda key: regex.fullmatch(key.decode()) is not None)
        return found

    def _remove(self, write: Callable[[], Any], is_meant: Callable[[bytes], bool]) -> None:
        def change(key: bytes, seen: Seen | None) -> Seen | None:
            return None if is_meant(key) else seen

        self.journal.add(Pending(self.cache.store, write, change))

    def _write(
        self, key: Any, version: int | None, write: Callable[[], Any], change: Change, *, creates: bool = True
    ) -> None:
        changed = self.cache.stored_key(key, version)

        def change_one(key: bytes, seen: Seen | None) -> Seen | None:
            return change(seen) if key == changed else seen

        created = (changed,) if creates else ()
        self.journal.add(Pending(self.cache.store, write, change_one, created))
