"""Django's cache API. Each method runs one operation of the store (store.py, bulk.py, ...), sync or async."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from datetime import timedelta
from typing import Any, Self, TypeVar

from django.apps import apps
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, default_key_func
from django.core.exceptions import ImproperlyConfigured

from pgonly_django import events
from pgonly_django.cache import bulk, deletion, updates
from pgonly_django.cache.durations import timeout_seconds
from pgonly_django.cache.entry import tag_names
from pgonly_django.cache.options import default_timeout, parse
from pgonly_django.cache.store import Store
from pgonly_django.database.operation import Operation, run
from pgonly_django.exceptions import CacheError, ValueTooLargeError

T = TypeVar("T")
Timeout = float | timedelta | None  # seconds, or a timedelta


class DjangoCache(BaseCache):
    is_configured = True

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        if apps.ready and not apps.is_installed("pgonly_django"):
            raise ImproperlyConfigured('The cache needs "pgonly_django" in INSTALLED_APPS; then run migrate.')
        # Django would read these two options wrongly, or fail at them.
        super().__init__({**params, "timeout": None, "OPTIONS": {}})
        try:
            options = parse(params.get("OPTIONS", {}))
            self.default_timeout = default_timeout(params.get("timeout", params.get("TIMEOUT", 300)))
            self.store = Store(location, options)
            self._on_error = options.on_error
        except ImproperlyConfigured as error:
            # The first use raises. Django's checks make every cache, and would end here before ours can speak.
            self.__class__ = _misconfigured(type(self), str(error))

    def validate_key(self, key: str) -> None:
        """Accepts any key."""

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return self._do(self.store.get(self.stored_key(key, version), default), default)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return await self._ado(self.store.get(self.stored_key(key, version), default), default)

    def set(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (), nx: bool = False, xx: bool = False,
    ) -> Any:  # fmt: skip
        """Stores `value` for `timeout` seconds. `tags` name groups for delete_tags(). `nx` stores only where there is
        no entry, as add() does, and `xx` only where there is one; both return whether the value was stored. Raises
        ValueTooLargeError beyond 1 GB or MAX_BYTES; then the key is deleted.
        """
        written = self._do(self._set(key, value, timeout, version, tags, nx, xx), False, write=True)
        return written if nx or xx else None

    async def aset(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (), nx: bool = False, xx: bool = False,
    ) -> Any:  # fmt: skip
        """See set()."""
        written = await self._ado(self._set(key, value, timeout, version, tags, nx, xx), False, write=True)
        return written if nx or xx else None

    def add(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> bool:  # fmt: skip
        return self._do(self._set(key, value, timeout, version, tags, nx=True), False, write=True)

    async def aadd(
        self, key: Any, value: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> bool:  # fmt: skip
        return await self._ado(self._set(key, value, timeout, version, tags, nx=True), False, write=True)

    def touch(self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        operation = updates.touch(self.store, self.stored_key(key, version), self.seconds_of(timeout))
        return self._do(operation, False, write=True)

    async def atouch(self, key: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        operation = updates.touch(self.store, self.stored_key(key, version), self.seconds_of(timeout))
        return await self._ado(operation, False, write=True)

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self._do(self.store.delete(self.stored_key(key, version)), False)

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        return await self._ado(self.store.delete(self.stored_key(key, version)), False)

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self._do(self.store.has(self.stored_key(key, version)), False)

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        return await self._ado(self.store.has(self.stored_key(key, version)), False)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """Adds `delta` atomically and returns the sum. The expiry does not change. Raises ValueError when the key does
        not exist, and TypeError when it does not hold a number."""
        operation = updates.incr(self.store, self.stored_key(key, version), delta, key)
        return self._do(operation, None, write=True)

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """See incr()."""
        operation = updates.incr(self.store, self.stored_key(key, version), delta, key)
        return await self._ado(operation, None, write=True)

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        named = self._named(keys, version)
        found = self._do(bulk.get_many(self.store, list(named), strict=self._on_error == "raise"), {})
        return {named[key]: value for key, value in found.items()}

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        named = self._named(keys, version)
        found = await self._ado(bulk.get_many(self.store, list(named), strict=self._on_error == "raise"), {})
        return {named[key]: value for key, value in found.items()}

    def set_many(
        self, data: Mapping[Any, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> list[Any]:  # fmt: skip
        """Stores all values, with a statement for every 1,000 entries or 8 MB. Returns the keys that are not stored: an
        empty list, except with ON_ERROR "ignore", since other errors raise. A value that is too large raises
        ValueTooLargeError after all others are stored, and its key is deleted.
        """
        return self._do(self._set_many(data, timeout, version, tags), [], write=True)

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, tags: Iterable[str] = (),
    ) -> list[Any]:  # fmt: skip
        """See set_many()."""
        return await self._ado(self._set_many(data, timeout, version, tags), [], write=True)

    def delete_many(  # type: ignore[override]  # Django's says None; django-redis's says how many
        self, keys: Iterable[Any], version: int | None = None
    ) -> int:
        """Deletes the keys. Returns the number of entries that it deleted."""
        return self._do(deletion.delete_many(self.store, list(self._named(keys, version))), 0)

    async def adelete_many(  # type: ignore[override]  # see delete_many()
        self, keys: Iterable[Any], version: int | None = None
    ) -> int:
        """See delete_many()."""
        return await self._ado(deletion.delete_many(self.store, list(self._named(keys, version))), 0)

    def clear(self) -> None:
        """Deletes everything in this cache, in batches. Other caches in the same table are left alone."""
        self._do(deletion.clear(self.store), 0)

    async def aclear(self) -> None:
        """See clear()."""
        await self._ado(deletion.clear(self.store), 0)

    # Operations that the sync and the async method share: those of more than one call of the store.

    def _set(
        self, key: Any, value: Any, timeout: Timeout, version: int | None, tags: Iterable[str],
        nx: bool = False, xx: bool = False,
    ) -> Operation[bool]:  # fmt: skip
        if nx and xx:
            raise ValueError(
                "nx writes only where there is no entry, xx only where there is one: give one of them."
            )
        stored = self.stored_key(key, version)
        return self.store.set(stored, value, self.seconds_of(timeout), self._tags(tags), nx, xx)

    def _set_many(
        self, data: Mapping[Any, Any], timeout: Timeout, version: int | None, tags: Iterable[str]
    ) -> Operation[list[Any]]:
        named = self._named(data, version)
        seconds, names, stored = self.seconds_of(timeout), self._tags(tags), set[bytes]()
        entries = {key: data[name] for key, name in named.items()}
        try:
            if seconds is not None and seconds <= 0:
                yield from deletion.delete_many(self.store, list(entries))
                return []
            yield from bulk.set_many(self.store, entries, seconds, names, stored)
        except CacheError as error:
            self.failed(error, None, write=True)  # raises, but with ON_ERROR "ignore"
        return [name for key, name in named.items() if key not in stored]

    def stored_key(self, key: Any, version: int | None) -> bytes:
        return self.store.key(self.make_key(key, version))

    def _named(self, keys: Iterable[Any], version: int | None) -> dict[bytes, Any]:
        """Returns the keys by their stored form. make_key() and KEY_FUNCTION put the key last, so one call is
        enough."""
        if self.key_func is not default_key_func or type(self).make_key is not BaseCache.make_key:
            return {self.stored_key(key, version): key for key in keys}
        start, stored = self.make_key("", version), self.store.key
        return {stored(f"{start}{key}"): key for key in keys}

    def seconds_of(self, timeout: Timeout) -> float | None:
        """Returns the timeout in seconds; None means forever. Raises TypeError and ValueError for other values."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return timeout if timeout is None or type(timeout) is int else timeout_seconds(timeout)

    def _tags(self, tags: Iterable[str]) -> Sequence[bytes]:
        return [self.store.tag(tag) for tag in tag_names(tags)] if tags else ()

    def _do(self, operation: Operation[T], fallback: T, *, write: bool = False) -> T:
        try:
            return run(operation)
        except CacheError as error:
            return self.failed(error, fallback, write=write)

    async def _ado(self, operation: Operation[T], fallback: T, *, write: bool = False) -> T:
        """See _do()."""
        try:
            return await self.store.pool.arun(operation)
        except CacheError as error:
            return self.failed(error, fallback, write=write)

    def raising(self) -> Self:
        """Returns a copy that raises every error, whatever ON_ERROR says."""
        strict = copy(self)
        vars(strict)["_on_error"] = "raise"
        return strict

    def failed(self, error: CacheError, fallback: T, *, write: bool) -> T:
        """Handles an error by ON_ERROR: by default reads give a miss, deletes 0 or False, both logged; writes raise."""
        if self._on_error == "raise" or (write and self._on_error is None):
            raise error
        what = (
            "Not cached"
            if isinstance(error, ValueTooLargeError)
            else "The cache continued without the database"
        )
        events.emit("cache.failed", f"{what}: {error}", level=logging.WARNING)
        return fallback


def _misconfigured(kind: type[DjangoCache], problem: str) -> type[DjangoCache]:
    """Returns a class whose every method refuses. With a __getattr__ instead, all other caches would be slower."""

    def refuse(_: DjangoCache) -> None:
        raise ImproperlyConfigured(problem)

    names = {"store": property(refuse), "_on_error": property(refuse), "is_configured": False}
    return type(kind.__name__, (kind,), names)
