"""`CACHES[...]["OPTIONS"]` as one frozen, validated object. It also makes the cache a user of database/pool.py: its
name, its errors, its advice to tests, and the calls that it leaves undone."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from pgonly_django.cache.durations import timeout_seconds
from pgonly_django.conf import unknown_key
from pgonly_django.database.background import Background
from pgonly_django.database.pool import PoolUser
from pgonly_django.database.testcase import Advice
from pgonly_django.exceptions import CacheError, CacheUnavailableError, UnansweredError

# Django's own options. CULL_FREQUENCY is accepted and has no effect: eviction deletes the excess only.
_OF_DJANGO = {"MAX_ENTRIES", "CULL_FREQUENCY"}
_BESIDE = {"BACKEND", "LOCATION", "TIMEOUT", "KEY_PREFIX", "VERSION", "KEY_FUNCTION"}
LONG_SECONDS = 10.0
_CHOICES = {"ON_ERROR": (None, "raise", "ignore"), "COMPRESSOR": (None, "zlib", "zstd")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    # The alias of DATABASES that holds the tables.
    database: str = "default"
    # True: entries survive a crash of PostgreSQL, and cost WAL. False: an UNLOGGED table.
    durable: bool = False
    # "pickle", "json", or the dotted path of a class with `dumps(value) -> bytes` and `loads(data)`.
    serializer: str = "pickle"
    # "zlib" or "zstd", for values above COMPRESS_ABOVE bytes.
    compressor: str | None = None
    # The number of bytes above which a value is compressed.
    compress_above: int = 1024
    # The number of seconds that one call may wait for PostgreSQL.
    timeout_seconds: float = 1.0
    # The maximum number of connections of a process for its caches with the same DATABASE and POOL_SIZE.
    pool_size: int = 8
    # When the database fails: None: reads miss and writes raise; "raise": all raise, but get_or_set() returns what it
    # has computed; "ignore": none does.
    on_error: str | None = None
    # The number of entries above which those that expire soonest are evicted; None: no bound.
    max_entries: int | None = None
    # The number of bytes, as PostgreSQL stores them, above which entries are evicted; None: no bound.
    max_bytes: int | None = None

    @property
    def long_timeout_seconds(self) -> float:
        """The time limit of the few statements that may walk over many entries."""
        return max(self.timeout_seconds, LONG_SECONDS)


def parse(given: dict[str, Any]) -> Options:
    """Returns the options. Raises ImproperlyConfigured, which names the wrong key, its value and the remedy."""
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"OPTIONS must be a dict, got {given!r}.")
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key in _BESIDE:
            instead = f'{{"{key}": {value!r}, "OPTIONS": {{...}}}}'
            raise ImproperlyConfigured(f"{key} stands beside OPTIONS, not in it: {instead}.")
        if key not in _KNOWN and key not in _OF_DJANGO:
            raise ImproperlyConfigured(unknown_key('OPTIONS["%s"]', key, {*_KNOWN, *_OF_DJANGO}))
        if key in _KNOWN:
            values[key.lower()] = _checked(key, value, _KNOWN[key].default)
    return Options(**values)


def default_timeout(given: Any) -> float | None:
    """Returns TIMEOUT: a number, a timedelta, None, or text from the environment. Raises as parse() does."""
    try:
        number = float(given) if isinstance(given, str) else given
        return number if type(number) is int else timeout_seconds(number)
    except (TypeError, ValueError) as error:
        problem = f"TIMEOUT must be a number of seconds, a timedelta or None, got {given!r}."
        raise ImproperlyConfigured(problem) from error


def misplaced(names: Iterable[str]) -> list[str]:
    """Returns the names beside OPTIONS that have an effect only inside it."""
    return [name for name in names if name in _KNOWN]


# PostgreSQL counts in 64 bits. A wait for a socket is in milliseconds, in 32 bits.
_MOST = {"TIMEOUT_SECONDS": 86_400}
_MOST_OF_ANY = 10**15
_KNOWN = {field.name.upper(): field for field in fields(Options)}


def _checked(key: str, value: Any, default: Any) -> Any:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise ImproperlyConfigured(f'OPTIONS["{key}"] must be one of {_CHOICES[key]}, got {value!r}.')
    elif isinstance(default, (bool, str)):
        if not isinstance(value, type(default)):
            raise ImproperlyConfigured(f'OPTIONS["{key}"] must be a {type(default).__name__}, got {value!r}.')
    elif value is not None or default is not None:
        return _number(key, value, whole=not isinstance(default, float))
    return value


def _number(key: str, value: Any, *, whole: bool) -> float:
    """Returns `value`, as an int where it must be whole, because 5e8 is."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf or (whole and value != int(value)):
        kind = "whole number" if whole else "number"
        raise ImproperlyConfigured(f'OPTIONS["{key}"] must be a {kind} above 0, got {value!r}.')
    if value > (most := _MOST.get(key, _MOST_OF_ANY)):
        raise ImproperlyConfigured(f'OPTIONS["{key}"] must be at most {most:,}, got {value!r}.')
    return int(value) if whole else value


CACHE = PoolUser(
    name="cache",
    size_option="POOL_SIZE",
    errors=(CacheError, CacheUnavailableError, UnansweredError),
    advice=Advice(
        without_database=(
            "PostgresCache keeps its entries there. A test that needs no database can be given another cache: "
            'override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}).'
        ),
        in_other_thread=(
            "For the cache, use methods such as `await cache.aget()` in coroutines, and for threads a "
            "TransactionTestCase (in pytest-django: django_db(transaction=True))."
        ),
    ),
)

background = Background("cache")
