"""What the answer of a provider says: how long its callers have to wait, and whether the request was paid."""

import contextlib
import math
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

DEFAULT_SECONDS = 20.0  # where nothing is said
LONGEST_SECONDS = 3600.0  # an hour; then the provider says it again
# Answers of a provider that bills for none of them. After the others (its own time-out, the client's, a
# gateway's) it may have done the work.
MAYBE_PAID = {408, 499, 504, 524}
FIRST_ERROR, LAST_ERROR = 400, 599
# By name, so that no client library is needed: httpx, httpcore, urllib3 (below requests), aiohttp. Nothing was sent.
NOT_CONNECTED = {
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ClientConnectorError",
}
CHAIN_LIMIT = 10


def seconds_of(answer: Any) -> float:
    """Returns the seconds to wait, from Retry-After (seconds or an HTTP date), retry-after-ms, or an attribute
    retry_after. `answer` is a response, its headers, or an error that has one of them: of httpx, requests, aiohttp,
    urllib, boto, or of an SDK built on them. Returns DEFAULT_SECONDS where it says nothing that can be read, and at
    most LONGEST_SECONDS.
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
    """Returns what may be headers, in what was handed over, or in its response."""
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
    """Returns the header, whatever its case: a plain dict distinguishes cases."""
    for key, value in headers.items():
        if _text(key).lower() == name:
            return _text(value)
    return None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float | None:
    """Returns None for anything that is not a number; a timedelta counts by its seconds."""
    if hasattr(value, "total_seconds"):
        return float(value.total_seconds())
    with contextlib.suppress(TypeError, ValueError):
        return float(value)
    return None


def _until(value: str | None, date: str | None) -> float | None:
    """Returns the seconds until an HTTP date, counted from the response's own Date, since the clocks may differ."""
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


def is_unpaid(error: BaseException | None) -> bool:
    """Returns whether an error says that its request was not paid: an answer that is an error (429, 400, 503), or a
    connection that was never made. When in doubt it was paid. It says nothing of earlier requests, nor whose answer it
    is: so it counts only where a block makes one call."""
    return any(_was_refused(each) or _never_connected(each) for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the error and the errors that it was made of, but not its context, which may be an earlier call's."""
    for _ in range(CHAIN_LIMIT):
        if error is None:
            return
        yield error
        inner = getattr(error.args[0], "reason", None) if error.args else None  # of requests' ConnectionError
        error = inner if isinstance(inner, BaseException) else error.__cause__


def _was_refused(error: BaseException) -> bool:
    """Returns whether the status refuses, by the attributes of openai, anthropic, httpx, requests and aiohttp."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status = getattr(holder, name, None)
            if isinstance(status, int) and not isinstance(status, bool):
                return FIRST_ERROR <= status <= LAST_ERROR and status not in MAYBE_PAID
    return False


def _never_connected(error: BaseException) -> bool:
    is_refused = isinstance(error, ConnectionRefusedError | socket.gaierror)
    return is_refused or any(kind.__name__ in NOT_CONNECTED for kind in type(error).__mro__)
