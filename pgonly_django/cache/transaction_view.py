"""What a read through cache.transactional() answers: the cache, with the writes that wait for the commit."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import BaseCache

from pgonly_django.cache.journal import Journal, Seen
from pgonly_django.cache.keys import as_regex, escape_glob

if TYPE_CHECKING:
    from pgonly_django.cache.backend import PostgresCache

MISSING = object()
F = TypeVar("F", bound=Callable[..., Any])


def inside(method: F) -> F:
    """Outside of atomic() the method of the cache itself is called."""

    @functools.wraps(method)
    def call(self: TransactionView, *args: Any, **kwargs: Any) -> Any:
        if self.journal.is_open():
            return method(self, *args, **kwargs)
        return getattr(self.cache, method.__name__)(*args, **kwargs)

    return call  # type: ignore[return-value]  # of the same signature


def twin(method: Callable[..., Any]) -> Any:
    """The async twin: in the thread that has the transaction."""

    @functools.wraps(method)
    async def call(self: TransactionView, *args: Any, **kwargs: Any) -> Any:
        return await sync_to_async(method)(self, *args, **kwargs)

    call.__name__, call.__doc__ = f"a{method.__name__}", f"See {method.__name__}()."
    return call


class TransactionView(BaseCache):
    """The reading half of TransactionalCache."""

    def __init__(self, cache: PostgresCache, using: str) -> None:
        super().__init__({})
        self.cache, self.journal = cache, Journal(cache.store, using)
        self._using = using
        self.key_prefix, self.version, self.key_func = cache.key_prefix, cache.version, cache.key_func
        self.default_timeout = cache.default_timeout

    @inside
    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        value = self.cache.get(key, MISSING, version)
        seen = self._seen(key, version, None if value is MISSING else _here(value))
        return default if seen is None else seen.value()

    aget = twin(get)

    @inside
    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        keys = list(keys)
        stored = {key: _here(value) for key, value in self.cache.get_many(keys, version).items()}
        seen = {key: self._seen(key, version, stored.get(key)) for key in keys}
        return {key: each.value() for key, each in seen.items() if each is not None}

    aget_many = twin(get_many)

    @inside
    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self._look(key, version) is not None

    ahas_key = twin(has_key)

    @inside
    def pttl(self, key: Any, version: int | None = None) -> int | None:
        """See PostgresCache.pttl(). The time of what this transaction has written begins at the commit."""
        seen = self._look(key, version)
        if seen is None:
            return 0
        return None if seen.milliseconds is None else int(seen.milliseconds)

    apttl = twin(pttl)

    @inside
    def ttl(self, key: Any, version: int | None = None) -> int | None:
        """See pttl(), in seconds."""
        left = self.pttl(key, version)
        return None if left is None else -(-left // 1000)

    attl = twin(ttl)

    @inside
    def iter_keys(
        self, search: str, itersize: int | None = None, version: int | None = None
    ) -> Iterator[str]:
        """See keys()."""
        return (
            self.cache.name_of(key, version)
            for key in self._matching(self.cache.pattern(search, version), itersize)
        )

    async def aiter_keys(
        self, search: str, itersize: int | None = None, version: int | None = None
    ) -> AsyncIterator[str]:
        """See keys()."""
        for key in await sync_to_async(lambda: list(self.iter_keys(search, itersize, version)))():
            yield key

    @inside
    def keys(self, search: str, version: int | None = None) -> list[str]:
        return list(self.iter_keys(search, version=version))

    akeys = twin(keys)

    def _look(self, key: Any, version: int | None) -> Seen | None:
        """Whether there is an entry, and for how long."""
        left = self.cache.pttl(key, version)
        return self._seen(key, version, None if left == 0 else Seen(lambda: None, left))

    def _seen(self, key: Any, version: int | None, before: Seen | None) -> Seen | None:
        return self.journal.seen(self.cache.stored_key(key, version), before)

    def _matching(self, glob: str, itersize: int | None = None) -> list[bytes]:
        """The stored keys that this transaction sees, in their order."""
        stored, regex = set(self.cache.stored_keys(glob, itersize)), self._regex(glob)
        mine = {key for key in self.journal.created() if regex.fullmatch(key.decode())}
        here = _here(None)
        return [
            key for key in sorted(stored | mine) if self.journal.seen(key, here if key in stored else None)
        ]

    def _regex(self, glob: str) -> re.Pattern[str]:
        return re.compile(as_regex(escape_glob(self.cache.store.namespace) + glob), re.DOTALL)


def _here(value: Any) -> Seen:
    return Seen(lambda: value, None)
