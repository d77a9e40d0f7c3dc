"""MovingCache: one cache in front of two, while a site moves from one to the other. See
docs/how-to/move_the_cache_to_redis.md.

Each key is in one of the two. A write deletes it in the other cache before it writes, so that processes whose WRITE
differs, during a deploy, see the same entries. A read asks the cache that is written to, and then the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.database.operation import Operation, arun, run

MISSING = object()
OPTIONS = ("OLD", "NEW", "WRITE")
# Of the caches themselves; here they would be read by neither.
OF_THE_CACHES = {"TIMEOUT", "KEY_PREFIX", "VERSION", "KEY_FUNCTION", "LOCATION"}


class Aliases(NamedTuple):
    old: str
    new: str
    writes_new: bool


def parse(cache: Mapping[str, Any]) -> Aliases:
    """The options of an entry of CACHES. Raises ImproperlyConfigured with what is wrong."""
    options = cache.get("OPTIONS", {})
    if unknown := [name for name in options if name not in OPTIONS]:
        raise ImproperlyConfigured(f"OPTIONS has {unknown[0]!r}; MovingCache knows {', '.join(OPTIONS)}.")
    if missing := [name for name in ("OLD", "NEW") if not isinstance(options.get(name), str)]:
        raise ImproperlyConfigured(f"OPTIONS needs {missing[0]!r}: the alias in CACHES of that cache.")
    if options.get("WRITE", "new") not in ("old", "new"):
        raise ImproperlyConfigured(f'OPTIONS["WRITE"] must be "old" or "new", got {options["WRITE"]!r}.')
    if options["OLD"] == options["NEW"]:
        raise ImproperlyConfigured(f"OLD and NEW are both {options['OLD']!r}.")
    if useless := sorted(OF_THE_CACHES & cache.keys()):
        raise ImproperlyConfigured(f"{useless[0]} has no effect here. It belongs to OLD and to NEW.")
    return Aliases(options["OLD"], options["NEW"], options.get("WRITE", "new") == "new")


class MovingCache(BaseCache):
    """Django's cache API over the two caches that OPTIONS name, with their own timeouts, prefixes and versions.

    While all processes have the same WRITE, every method is as exact as that of the cache behind it, but for two: a
    `get` may miss an entry that is being written, and an `incr` that takes a sum over from the other cache gives it the
    default timeout where that cache has no `ttl()`.
    """

    def __init__(self, _location: str, params: dict[str, Any]) -> None:
        super().__init__({})
        self._settings = params

    @property
    def _written(self) -> BaseCache:
        aliases = self._aliases
        return _cache(aliases.new if aliases.writes_new else aliases.old)

    @property
    def _other(self) -> BaseCache:
        aliases = self._aliases
        return _cache(aliases.old if aliases.writes_new else aliases.new)

    @cached_property
    def _aliases(self) -> Aliases:
        """Read at the first use: Django's own checks make every cache, and would end before ours can speak."""
        return parse(self._settings)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        old, new = self._aliases.old, self._aliases.new
        instead = f"Call it on caches[{old!r}] or caches[{new!r}], or move without MovingCache."
        raise AttributeError(f"MovingCache has no {name!r}: it would have to be in both caches. {instead}")

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return run(self._get(key, default, version))

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return await arun(self._get(key, default, version))

    def _get(self, key: Any, default: Any, version: int | None) -> Operation[Any]:
        value = yield Call(self._written, "get", key, MISSING, version=version)
        if value is MISSING:
            value = yield Call(self._other, "get", key, default, version=version)
        return value

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        return run(self._get_many(list(keys), version))

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        return await arun(self._get_many(list(keys), version))

    def _get_many(self, keys: list[Any], version: int | None) -> Operation[dict[Any, Any]]:
        found = yield Call(self._written, "get_many", keys, version=version)
        if left := [key for key in keys if key not in found]:
            found |= yield Call(self._other, "get_many", left, version=version)
        return found  # type: ignore[no-any-return]  # of a cache

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return run(self._in_either("has_key", key, version=version))

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        return await arun(self._in_either("has_key", key, version=version))

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return run(self._in_either("touch", key, timeout, version=version))

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return await arun(self._in_either("touch", key, timeout, version=version))

    def _in_either(self, method: str, *args: Any, version: int | None) -> Operation[bool]:
        return bool(
            (yield Call(self._written, method, *args, version=version))
            or (yield Call(self._other, method, *args, version=version))
        )

    def set(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **options: Any
    ) -> Any:
        """`options` are those of the cache that is written to. Not `nx` and `xx`: see add()."""
        return run(self._set(key, value, timeout, version, options))

    async def aset(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **options: Any
    ) -> Any:
        """See set()."""
        return await arun(self._set(key, value, timeout, version, options))

    def _set(
        self, key: Any, value: Any, timeout: Any, version: int | None, options: dict[str, Any]
    ) -> Operation[Any]:
        if refused := options.keys() & {"nx", "xx"}:
            raise TypeError(f"MovingCache.set() takes no {min(refused)!r}. Use add().")
        yield Call(self._other, "delete", key, version=version)
        return (yield Call(self._written, "set", key, value, timeout, version=version, **options))

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        return run(self._set_many(dict(data), timeout, version))

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        return await arun(self._set_many(dict(data), timeout, version))

    def _set_many(self, data: dict[Any, Any], timeout: Any, version: int | None) -> Operation[list[Any]]:
        yield Call(self._other, "delete_many", list(data), version=version)
        return (yield Call(self._written, "set_many", data, timeout, version=version)) or []

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **options: Any
    ) -> bool:
        return run(self._add(key, value, timeout, version, options))

    async def aadd(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **options: Any
    ) -> bool:
        return await arun(self._add(key, value, timeout, version, options))

    def _add(
        self, key: Any, value: Any, timeout: Any, version: int | None, options: dict[str, Any]
    ) -> Operation[bool]:
        """An entry on its way from the other cache is in both, never in none: see _take_over()."""
        if (yield Call(self._other, "has_key", key, version=version)):
            return False
        return bool((yield Call(self._written, "add", key, value, timeout, version=version, **options)))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return run(self._incr(key, delta, version))

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return await arun(self._incr(key, delta, version))

    def decr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return run(self._incr(key, -delta, version))

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return await arun(self._incr(key, -delta, version))

    def _incr(self, key: Any, delta: int, version: int | None) -> Operation[int]:
        try:
            return (yield Call(self._written, "incr", key, delta, version=version))  # type: ignore[no-any-return]
        except ValueError:  # Django's for a key that is not there
            yield from self._take_over(key, version)
        return (yield Call(self._written, "incr", key, delta, version=version))  # type: ignore[no-any-return]

    def _take_over(self, key: Any, version: int | None) -> Operation[None]:
        """Of several at once the first add() counts; only then the entry goes from the other cache."""
        value = yield Call(self._other, "get", key, MISSING, version=version)
        if value is MISSING:
            return
        has_ttl = hasattr(self._other, "ttl")
        left = (yield Call(self._other, "ttl", key, version=version)) if has_ttl else DEFAULT_TIMEOUT
        if left != 0:
            yield Call(self._written, "add", key, value, left, version=version)
            yield Call(self._other, "delete", key, version=version)

    def incr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return super().incr_version(key, delta, self._version(version))

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return await super().aincr_version(key, delta, self._version(version))

    def _version(self, given: int | None) -> int:
        """Where the caches have different versions, that of the one which is written to."""
        return int(self._written.version) if given is None else given

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        **options: Any,
    ) -> Any:
        """As the cache that is written to: with its single flight, if it has one."""
        return run(self._get_or_set(key, default, timeout, version, options))

    async def aget_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        **options: Any,
    ) -> Any:
        """See get_or_set()."""
        return await arun(self._get_or_set(key, default, timeout, version, options))

    def _get_or_set(
        self, key: Any, default: Any, timeout: Any, version: int | None, options: dict[str, Any]
    ) -> Operation[Any]:
        value = yield from self._get(key, MISSING, version)
        if value is not MISSING:
            return value
        return (yield Call(self._written, "get_or_set", key, default, timeout, version=version, **options))

    def delete(self, key: Any, version: int | None = None) -> bool:
        return run(self._delete(key, version))

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        return await arun(self._delete(key, version))

    def _delete(self, key: Any, version: int | None) -> Operation[bool]:
        of_other = yield Call(self._other, "delete", key, version=version)
        of_written = yield Call(self._written, "delete", key, version=version)
        return bool(of_other or of_written)

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        run(self._both("delete_many", list(keys), version=version))

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        await arun(self._both("delete_many", list(keys), version=version))

    def clear(self) -> None:
        """Empties both."""
        run(self._both("clear"))

    async def aclear(self) -> None:
        """See clear()."""
        await arun(self._both("clear"))

    def _both(self, method: str, *args: Any, **options: Any) -> Operation[None]:
        yield Call(self._other, method, *args, **options)
        yield Call(self._written, method, *args, **options)


def _cache(alias: str) -> BaseCache:
    cache = caches[alias]
    if isinstance(cache, MovingCache):
        raise ImproperlyConfigured(
            f"CACHES[{alias!r}] is a MovingCache too. OLD and NEW name the caches themselves."
        )
    return cache


class Call:
    """Of a method of a cache, or of its async twin, for an operation to wait for."""

    def __init__(self, cache: Any, method: str, *args: Any, **options: Any) -> None:
        self._cache, self._method, self._args, self._options = cache, method, args, options

    def block(self) -> Any:
        return self._of(self._method)(*self._args, **self._options)

    async def ready(self) -> Any:
        """A method beyond Django's may have no twin, such as `ttl` of django-redis."""
        if (twin := getattr(self._cache, f"a{self._method}", None)) is not None:
            return await twin(*self._args, **self._options)
        return await sync_to_async(self._of(self._method))(*self._args, **self._options)

    def _of(self, method: str) -> Callable[..., Any]:
        return getattr(self._cache, method)  # type: ignore[no-any-return]  # of a cache
