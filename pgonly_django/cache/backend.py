"""PostgresCache: Django's cache API (django_api.py), single flight, tags, locks, and the methods of django-redis. It
also finds the caches of settings.CACHES that use it."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, cast

from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.utils.module_loading import import_string

from pgonly_django.cache import bulk, deletion, updates
from pgonly_django.cache.django_api import DjangoCache, Timeout
from pgonly_django.cache.durations import count, milliseconds, moment, not_negative, positive
from pgonly_django.cache.globs import escape_glob
from pgonly_django.cache.lock import Lock
from pgonly_django.cache.single_flight import LOCK_TIMEOUT, NEVER_STALE, SingleFlight
from pgonly_django.database.operation import Operation, run


class PostgresCache(DjangoCache):
    """Django's cache on PostgreSQL. It has all methods of Django's caches and those that django-redis adds, each with
    an async twin whose name begins with `a`."""

    def get_or_set(
        self, key: Any, default: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, stale: float | timedelta = NEVER_STALE, lock_timeout: float | timedelta = LOCK_TIMEOUT,
        tags: Iterable[str] = (),
    ) -> Any:  # fmt: skip
        """Returns the cached value. If there is none, one caller of all processes computes `default()` while the others
        wait for it.

            summary = cache.get_or_set("summary:7", lambda: summarize(7), timeout=3600, stale=600)

        A computation that takes longer than `lock_timeout` seconds counts as dead, and another caller computes; no
        caller waits longer than twice that time. For `stale` seconds after the expiry, one caller refreshes the value
        while the others get the old one at once. If delete() or delete_tags() is called during the computation, its
        value is not stored.

        Without a database the value is computed and not stored, unless ON_ERROR is "raise": then CacheUnavailableError
        is raised. If the database becomes unavailable during the computation, the value is returned, and stored later:
        within `lock_timeout`, if the process lives. Raises CircularComputationError if `default()` asks for its own
        key.
        """
        return run(self._single_flight(key, default, timeout, version, stale, lock_timeout, tags))

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None,
        *, stale: float | timedelta = NEVER_STALE, lock_timeout: float | timedelta = LOCK_TIMEOUT,
        tags: Iterable[str] = (),
    ) -> Any:  # fmt: skip
        """See get_or_set(). `default` may be an async function."""
        operation = self._single_flight(key, default, timeout, version, stale, lock_timeout, tags)
        return await self.store.pool.arun(operation)

    def _single_flight(
        self, key: Any, default: Any, timeout: Timeout, version: int | None,
        stale: float | timedelta, lock_timeout: float | timedelta, tags: Iterable[str],
    ) -> Operation[Any]:  # fmt: skip
        function: Callable[[], Any] = default if callable(default) else lambda: default
        stored = self.stored_key(key, version)
        seconds = self.seconds_of(timeout)
        # The defaults need no check: it would take 1 of the 22 us of a call.
        spare = NEVER_STALE if stale is NEVER_STALE else not_negative(stale, "stale")
        limit = LOCK_TIMEOUT if lock_timeout is LOCK_TIMEOUT else positive(lock_timeout, "lock_timeout")
        names = self._tags(tags)
        strict = self._on_error == "raise"
        return SingleFlight(self.store, stored, function, seconds, spare, limit, names, strict).run()

    def delete_tags(self, *tags: str) -> int:
        """Deletes every entry that has one of the tags, with a statement for every 100,000 entries or 32 MB. Returns
        the number of entries."""
        return self._do(deletion.delete_tags(self.store, self._tags(tags)), 0)

    async def adelete_tags(self, *tags: str) -> int:
        """See delete_tags()."""
        return await self._ado(deletion.delete_tags(self.store, self._tags(tags)), 0)

    def clear_prefix(self, prefix: str) -> int:
        """Deletes every entry whose made key (KEY_PREFIX, version, key) begins with `prefix`. Returns the number of
        entries that it deleted."""
        return self._do(deletion.clear(self.store, prefix), 0)

    def lock(
        self, key: Any, version: int | None = None, timeout: float | timedelta | None = None,
        sleep: float | None = None, blocking: bool = True, blocking_timeout: float | timedelta | None = None,
        thread_local: bool | None = None,
    ) -> Lock:  # fmt: skip
        """Returns a lock across all processes; see Lock. `sleep`, `thread_local`: django-redis's, without effect."""
        del sleep, thread_local
        stored = self.stored_key(key, version)
        return Lock(self.store, stored, str(key), timeout, blocking_timeout, blocking=blocking)

    def ttl(self, key: Any, version: int | None = None) -> int | None:
        """Returns the seconds until `key` expires, rounded up; None without an expiry, 0 without the key."""
        return _seconds(self.pttl(key, version))

    async def attl(self, key: Any, version: int | None = None) -> int | None:
        """See ttl()."""
        return _seconds(await self.apttl(key, version))

    def pttl(self, key: Any, version: int | None = None) -> int | None:
        """Returns the milliseconds until `key` expires; None without an expiry, 0 without the key."""
        return self._do(updates.pttl(self.store, self.stored_key(key, version)), 0)

    async def apttl(self, key: Any, version: int | None = None) -> int | None:
        """See pttl()."""
        return await self._ado(updates.pttl(self.store, self.stored_key(key, version)), 0)

    def expire(self, key: Any, timeout: Timeout, version: int | None = None) -> bool:
        """Lets `key` expire after `timeout` (seconds or a timedelta). Returns False without the key."""
        return self.touch(key, timeout, version)

    async def aexpire(self, key: Any, timeout: Timeout, version: int | None = None) -> bool:
        """See expire()."""
        return await self.atouch(key, timeout, version)

    def pexpire(self, key: Any, timeout: Timeout, version: int | None = None) -> bool:
        """See expire(); a number means milliseconds."""
        return self.touch(key, milliseconds(timeout), version)

    async def apexpire(self, key: Any, timeout: Timeout, version: int | None = None) -> bool:
        """See pexpire()."""
        return await self.atouch(key, milliseconds(timeout), version)

    def expire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """Lets `key` expire at a datetime, or at seconds since 1970. Returns False without the key."""
        operation = updates.expire_at(self.store, self.stored_key(key, version), moment(when))
        return self._do(operation, False, write=True)

    async def aexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """See expire_at()."""
        operation = updates.expire_at(self.store, self.stored_key(key, version), moment(when))
        return await self._ado(operation, False, write=True)

    def pexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """See expire_at(); a number means milliseconds since 1970."""
        return self.expire_at(key, moment(when, units=1000), version)

    async def apexpire_at(self, key: Any, when: datetime | float, version: int | None = None) -> bool:
        """See pexpire_at()."""
        return await self.aexpire_at(key, moment(when, units=1000), version)

    def persist(self, key: Any, version: int | None = None) -> bool:
        """Lets `key` never expire. Returns False if it had no expiry, or does not exist."""
        return self._do(updates.persist(self.store, self.stored_key(key, version)), False, write=True)

    async def apersist(self, key: Any, version: int | None = None) -> bool:
        """See persist()."""
        return await self._ado(updates.persist(self.store, self.stored_key(key, version)), False, write=True)

    def get_and_touch(
        self, key: Any, default: Any = None, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Does get() and touch() in one round trip."""
        stored, seconds = self.stored_key(key, version), self.seconds_of(timeout)
        operation = updates.get_and_touch(self.store, stored, default, seconds)
        return self._do(operation, default)

    async def aget_and_touch(
        self, key: Any, default: Any = None, timeout: Timeout = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """See get_and_touch()."""
        stored, seconds = self.stored_key(key, version), self.seconds_of(timeout)
        operation = updates.get_and_touch(self.store, stored, default, seconds)
        return await self._ado(operation, default)

    def keys(self, search: str, version: int | None = None) -> list[str]:
        """Returns the keys that match a glob (`*`, `?`, `[abc]`, backslash escapes), in order."""
        return list(self.iter_keys(search, version=version))

    async def akeys(self, search: str, version: int | None = None) -> list[str]:
        """See keys()."""
        return [key async for key in self.aiter_keys(search, version=version)]

    def iter_keys(
        self, search: str, itersize: int | None = None, version: int | None = None
    ) -> Iterator[str]:
        """See keys(). It fetches `itersize` keys at a time while you iterate."""
        size, found, after = _itersize(itersize), [b""], b""
        while found:
            found = self._do(bulk.scan(self.store, self._pattern(search, version), after, size), [])
            after = found[-1] if found else after
            for key in found:
                yield self._name_of(key, version)

    async def aiter_keys(
        self, search: str, itersize: int | None = None, version: int | None = None
    ) -> AsyncIterator[str]:
        """See iter_keys()."""
        size, found, after = _itersize(itersize), [b""], b""
        while found:
            found = await self._ado(bulk.scan(self.store, self._pattern(search, version), after, size), [])
            after = found[-1] if found else after
            for key in found:
                yield self._name_of(key, version)

    def delete_pattern(
        self, pattern: str, version: int | None = None, prefix: str | None = None, itersize: int | None = None
    ) -> int:
        """Deletes the keys that match a glob, `itersize` at a time. Returns the number of keys that it deleted.
        `prefix` takes the place of KEY_PREFIX: "" finds keys that were written without one.
        """
        glob, size = self._pattern(pattern, version, prefix), _itersize(itersize)
        return self._do(deletion.delete_pattern(self.store, glob, size), 0)

    async def adelete_pattern(
        self, pattern: str, version: int | None = None, prefix: str | None = None, itersize: int | None = None
    ) -> int:
        """See delete_pattern()."""
        glob, size = self._pattern(pattern, version, prefix), _itersize(itersize)
        return await self._ado(deletion.delete_pattern(self.store, glob, size), 0)

    def _pattern(self, pattern: str, version: int | None, prefix: str | None = None) -> str:
        """Returns the glob of the made keys. KEY_FUNCTION must put the key last, as Django's own does."""
        if prefix is None:
            return escape_glob(self.make_key("", version)) + pattern
        return escape_glob(self.key_func("", prefix, self.version if version is None else version)) + pattern

    def _name_of(self, stored: bytes, version: int | None) -> str:
        return stored.decode()[len(self.store.namespace + self.make_key("", version)) :]


def our_caches() -> dict[str, PostgresCache]:
    """Returns the caches of settings.CACHES that use this backend, by alias, without those that are misconfigured."""
    ours = {alias: cast("PostgresCache", caches[alias]) for alias in our_settings()}
    return {alias: cache for alias, cache in ours.items() if cache.is_configured}


def our_settings() -> dict[str, dict[str, Any]]:
    """Returns the entries of settings.CACHES that name this backend or a subclass, by alias."""
    return {alias: cache for alias, cache in settings.CACHES.items() if _is_ours(cache)}


def _is_ours(cache: dict[str, Any]) -> bool:
    try:
        return issubclass(import_string(cache["BACKEND"]), PostgresCache)
    except ImportError:
        return False


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else -(-milliseconds // 1000)


def _itersize(given: int | None) -> int:
    return bulk.ITERSIZE if given is None else count(given, "itersize")
