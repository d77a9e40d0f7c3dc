"""`CACHES[...]["OPTIONS"]` as one frozen, validated object."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from pgonly_django.conf import unknown_key

# Django's own, read by BaseCache. CULL_FREQUENCY is accepted and means nothing here: just the excess goes.
_OF_DJANGO = {"MAX_ENTRIES", "CULL_FREQUENCY"}
_CHOICES = {"ON_ERROR": (None, "raise", "ignore"), "COMPRESSOR": (None, "zlib", "zstd")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    database: str = "default"  # which of DATABASES holds the tables
    durable: bool = False  # entries survive a crash of PostgreSQL, and cost WAL
    serializer: str = "pickle"  # "pickle", "json" or the dotted path of a class
    compressor: str | None = None  # "zlib" or "zstd", for values above COMPRESS_ABOVE bytes
    compress_above: int = 1024
    timeout_seconds: float = 1.0  # how long one call may wait for PostgreSQL
    pool_size: int = 8  # connections of this process for all its caches in that database
    on_error: str | None = None  # None: reads miss and writes raise; "raise" or "ignore": all do
    max_entries: int | None = None
    max_bytes: int | None = None


def parse(given: dict[str, Any]) -> Options:
    """Raises ImproperlyConfigured naming the wrong key, its value and the remedy."""
    known = {field.name.upper(): field for field in fields(Options)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known and key not in _OF_DJANGO:
            raise ImproperlyConfigured(unknown_key('OPTIONS["%s"]', key, {*known, *_OF_DJANGO}))
        if key in known:
            _validate(key, value, known[key].default)
            values[key.lower()] = value
    return Options(**values)


def _validate(key: str, value: Any, default: Any) -> None:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise ImproperlyConfigured(f'OPTIONS["{key}"] must be one of {_CHOICES[key]}, got {value!r}.')
    elif isinstance(default, (bool, str)):
        if not isinstance(value, type(default)):
            raise ImproperlyConfigured(f'OPTIONS["{key}"] must be a {type(default).__name__}, got {value!r}.')
    elif value is not None or default is not None:
        _validate_number(key, value)


def _validate_number(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise ImproperlyConfigured(f'OPTIONS["{key}"] must be a number above 0, got {value!r}.')
