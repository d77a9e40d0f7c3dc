"""Validates the times and counts that callers give, before PostgreSQL is asked."""

import math
from datetime import datetime, timedelta
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

LONGEST_SECONDS = 1e11  # 3,170 years; prune_minute is an int4, and Python's calendar ends in the year 9999
MOST = 1_000_000


def seconds(value: Any, what: str, kinds: str = "a number of seconds or a timedelta") -> float:
    """Returns `value` in seconds, maybe infinite. Raises TypeError if it is no time, and ValueError for NaN."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    # The usual types first: faster.
    is_number = type(value) in {int, float} or isinstance(value, (Real, Decimal))
    if isinstance(value, bool) or not is_number:
        raise TypeError(f"{what} must be {kinds}, got {value!r}.")
    try:
        number = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    if math.isnan(number):
        raise ValueError(f"{what} must be {kinds}, got NaN.")
    return number


def timeout_seconds(value: Any) -> float | None:
    """See seconds(); None means forever."""
    return None if value is None else seconds(value, "A timeout", "a number of seconds, a timedelta or None")


def milliseconds(timeout: Any) -> Any:
    """Returns a number of milliseconds as seconds; None, a timedelta and DEFAULT_TIMEOUT stay as they are."""
    if timeout is None or timeout is DEFAULT_TIMEOUT or isinstance(timeout, timedelta):
        return timeout
    return seconds(timeout, "A timeout", "a number of milliseconds, a timedelta or None") / 1000


def not_negative(value: Any, what: str) -> float:
    """See seconds(). At most LONGEST_SECONDS."""
    number = seconds(value, what)
    if number < 0:
        raise ValueError(f"{what} must not be negative, got {value!r}.")
    return min(number, LONGEST_SECONDS)


def positive(value: Any, what: str) -> float:
    """See seconds(). At most LONGEST_SECONDS."""
    number = seconds(value, what)
    if number <= 0:
        raise ValueError(f"{what} must be more than 0 s, got {value!r}.")
    return min(number, LONGEST_SECONDS)


def moment(value: Any, *, units: float = 1) -> float:
    """Returns a datetime, or a number in `units` per second, as seconds since 1970, which may be infinite."""
    if isinstance(value, datetime):
        try:
            return value.timestamp()
        except (OverflowError, ValueError):  # beyond the calendar of the machine
            return math.inf if value.year > 1970 else -math.inf  # noqa: PLR2004 - the year that timestamps count from
    if isinstance(value, timedelta):
        raise TypeError(f"A moment must be a datetime, got {value!r}. expire() takes a timedelta.")
    unit = "seconds" if units == 1 else "milliseconds"
    return seconds(value, "A moment", f"a datetime or a number of {unit} since 1970") / units


def count(value: Any, what: str) -> int:
    """Returns a whole number from 1 to a million."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what} must be a whole number, got {value!r}.")
    if value <= 0:
        raise ValueError(f"{what} must be above 0, got {value!r}.")
    return min(int(value), MOST)
