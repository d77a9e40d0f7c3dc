"""@cached: keeps the answers of a function, sync or async, in a cache."""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.db.models import Model
from django.utils.safestring import SafeString

from pgonly_django.cache.backend import PostgresCache
from pgonly_django.cache.durations import not_negative, positive, timeout_seconds
from pgonly_django.cache.entry import tag_names
from pgonly_django.cache.single_flight import LOCK_TIMEOUT, NEVER_STALE

_MISSING = object()
F = TypeVar("F", bound=Callable[..., Any])
Key = str | Callable[..., str]
Tags = Iterable[str] | Callable[..., Iterable[str]]


def cached(
    timeout: float | timedelta | None, *, key: Key | None = None, tags: Tags = (),
    stale: float | timedelta = NEVER_STALE, lock_timeout: float | timedelta = LOCK_TIMEOUT, cache: str = "default",
) -> Callable[[F], F]:  # fmt: skip
    """Keeps the function's return values in the cache `cache` for `timeout`: seconds, a timedelta, or None to keep them
    forever.

        @cached(3600, key="paper:{pmid}")
        def paper(pmid): ...

    Among callers with the same arguments only one computes the value; get_or_set() describes `stale` and
    `lock_timeout`. `key`: a text with the names of arguments in braces, or a function of the arguments. Without it, the
    key is made of the function's name and its arguments (docs/how-to/cache.md lists the types), so a lambda and a
    nested function need one. `tags`: texts with names in braces, or a function of the arguments.

    The decorated function has `cache_key(*arguments)`, `forget(*arguments)` and `aforget(*arguments)`. Raises TypeError
    for a missing timeout or key.
    """
    if callable(timeout):
        raise TypeError("@cached needs its timeout: @cached(3600), or @cached(None) to keep answers forever.")

    tags = tags if callable(tags) else tag_names(tags)
    if timeout is not DEFAULT_TIMEOUT and type(timeout) is not int:
        timeout = timeout_seconds(timeout)
    stale, lock_timeout = not_negative(stale, "stale"), positive(lock_timeout, "lock_timeout")

    def decorate(function: F) -> F:
        # The name of a lambda, a function inside another or a functools.partial is not unique.
        if key is None and "<" in getattr(function, "__qualname__", "<"):
            raise TypeError(
                f"{function!r} has no name that is its alone, so its answers would mix with those of others. "
                'Give @cached a key, for example key="paper:{pmid}".'
            )
        wrapped: F = _Cached(function, timeout, key, tags, stale, lock_timeout, cache).wrap()
        return wrapped

    return decorate


@dataclass(frozen=True, slots=True)
class _Cached:
    function: Callable[..., Any]
    timeout: float | None
    key: Key | None
    tags: Tags
    stale: float
    lock_timeout: float
    alias: str

    def wrap(self) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return caches[self.alias].get_or_set(*self._call(args, kwargs), **self._options(args, kwargs))

        async def acall(*args: Any, **kwargs: Any) -> Any:
            cache, (key, compute, timeout) = caches[self.alias], self._call(args, kwargs)
            if isinstance(cache, PostgresCache):
                return await cache.aget_or_set(key, compute, timeout, **self._options(args, kwargs))
            value = await cache.aget(key, _MISSING)  # Django's own aget_or_set() awaits no function
            if value is _MISSING:
                value = await compute()
                await cache.aset(key, value, timeout)
            return value

        is_async = inspect.iscoroutinefunction(self.function)
        wrapper: Any = functools.wraps(self.function)(acall if is_async else call)
        wrapper.cache_key = self.cache_key
        wrapper.forget = lambda *args, **kwargs: caches[self.alias].delete(self.cache_key(*args, **kwargs))
        wrapper.aforget = lambda *args, **kwargs: caches[self.alias].adelete(self.cache_key(*args, **kwargs))
        return wrapper

    def _call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, Callable[[], Any], float | None]:
        compute = functools.partial(self.function, *args, **kwargs)
        return self.cache_key(*args, **kwargs), compute, self.timeout

    def cache_key(self, *args: Any, **kwargs: Any) -> str:
        if callable(self.key):
            return self.key(*args, **kwargs)
        arguments = self._arguments(args, kwargs)
        if self.key is not None:
            return self.key.format(**arguments)
        try:
            return f"{self.function.__module__}.{self.function.__qualname__}:{_digest(arguments)}"
        except TypeError as error:
            raise TypeError(
                f"The arguments of {self.function.__qualname__} make no cache key: {error}. "
                'Give @cached a key, for example key="paper:{pmid}".'
            ) from error

    def _options(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments that only this package's get_or_set() has. Another backend gets only the timeout."""
        if not isinstance(caches[self.alias], PostgresCache):
            return {}
        return {"tags": self._tags(args, kwargs), "stale": self.stale, "lock_timeout": self.lock_timeout}

    def _tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[str]:
        if callable(self.tags):
            return self.tags(*args, **kwargs)
        arguments = self._arguments(args, kwargs)
        return [tag.format(**arguments) for tag in self.tags]

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = inspect.signature(self.function).bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments


def _digest(arguments: Mapping[str, Any]) -> str:
    """Returns the arguments of a call as 32 hex digits, which differ for other arguments. Raises TypeError, which names
    the argument, for a value that has no such form."""
    forms = {}
    for name, value in arguments.items():
        try:
            forms[name] = _form(value)
        except (TypeError, RecursionError) as error:
            raise TypeError(f"{name} has {error}") from error
    return hashlib.sha256(_text(forms).encode()).hexdigest()[:32]


def _form(value: Any) -> Any:
    """Returns `value` as JSON that also has its type. A list in it always begins with the name of a type."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in _FORMS:
        return [kind.__name__, _FORMS[kind](value)]
    if isinstance(value, Model):  # or a lazy object around a model, as request.user is
        key, label = value.pk, value._meta.label  # noqa: SLF001 - documented by Django
        if key is None or (isinstance(key, tuple) and None in key):
            raise TypeError(f"a {label} without a primary key, as all have that are not saved")
        return ["Model", label, _form(key)]
    if isinstance(value, Enum):
        # A member that equals its value (TextChoices, StrEnum) stands for it, as it does in the database.
        form = _form(value.value)
        return form if value == value.value else [_path(kind), form]
    if isinstance(value, (date, time)):  # of a subclass, as those of freezegun are
        return [_path(kind), value.isoformat()]
    raise TypeError(f"a value of {_path(kind)}")


def _path(kind: type) -> str:
    if "<locals>" in kind.__qualname__:
        raise TypeError(f"a value of {kind.__qualname__}, whose name others may have")
    return f"{kind.__module__}.{kind.__qualname__}"


def _items(values: Iterable[Any]) -> list[Any]:
    return [_form(value) for value in values]


def _unordered(values: Iterable[Any]) -> list[str]:
    return sorted(_text(form) for form in _items(values))


def _text(form: Any) -> str:
    return json.dumps(form, sort_keys=True)


# JSON writes each value of these types without loss, and no two alike.
_PLAIN = {type(None), bool, float, str}
# Values of exactly these types: a subclass may hold more than its base shows.
_FORMS: dict[type, Callable[[Any], Any]] = {
    int: hex,  # of any size; as decimals Python writes 4,300 digits
    list: _items,
    tuple: _items,
    set: _unordered,
    frozenset: _unordered,
    dict: lambda value: _unordered(value.items()),
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    Decimal: str,
    UUID: str,
    bytes: bytes.hex,
    SafeString: str.__str__,
}
