"""How long a provider asks its callers to wait: from what a client library gives them with a 429."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

DEFAULT_SECONDS = 20.0  # where nothing is said
LONGEST_SECONDS = 3600.0  # an hour; then the provider says it again


def seconds_of(answer: Any) -> float:
    """From Retry-After (seconds or an HTTP date), retry-after-ms, or an attribute retry_after.

    `answer` is a response, its headers, or an error that has one of them: of httpx, requests, aiohttp, urllib, boto, or
    of an SDK built on them. DEFAULT_SECONDS where it says nothing that can be read, at most LONGEST_SECONDS.
    """
    asked = asked_seconds(answer)
    return DEFAULT_SECONDS if asked is None else asked


def asked_seconds(answer: Any) -> float | None:
    """See seconds_of(); None where it says nothing that can be read."""
    with contextlib.suppress(Exception):  # an object of other people's code may raise anything
        for asked in _asked(answer):
            if asked is not None and math.isfinite(asked) and asked >= 0:
                return min(asked, LONGEST_SECONDS)
    return None


def _asked(answer: Any) -> Iterator[float | None]:
    for headers in _headers(answer):
        milliseconds = _number(_header(headers, "retry-after-ms"))
        yield None if milliseconds is None else milliseconds / 1000
        value = _header(headers, "retry-after")
        yield _number(value)
        yield _until(value, _header(headers, "date"))
    yield _number(getattr(answer, "retry_after", None))


def _headers(answer: Any) -> Iterator[Mapping[str, Any]]:
    """Whatever may be headers, in what was handed over, or in its response."""
    response = getattr(answer, "response", None)
    for place in (answer, response):
        if isinstance(place, Mapping):
            yield place
            metadata = place.get("ResponseMetadata")  # boto
            if isinstance(metadata, Mapping) and isinstance(metadata.get("HTTPHeaders"), Mapping):
                yield metadata["HTTPHeaders"]
        elif hasattr(headers := getattr(place, "headers", None), "items"):
            assert headers is not None
            yield headers


def _header(headers: Any, name: str) -> str | None:
    """Whatever its case: those of a plain dict have one."""
    for key, value in headers.items():
        if _text(key).lower() == name:
            return _text(value)
    return None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float | None:
    """None for what is none; a timedelta counts by its seconds."""
    if hasattr(value, "total_seconds"):
        return float(value.total_seconds())
    with contextlib.suppress(TypeError, ValueError):
        return float(value)
    return None


def _until(value: str | None, date: str | None) -> float | None:
    """From an HTTP date: counted from the response's own Date, since the clocks may differ."""
    moment = _moment(value)
    if moment is None:
        return None
    return max((moment - (_moment(date) or datetime.now(UTC))).total_seconds(), 0.0)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
