"""Durations as operators read them: the same in the log, the commands and the admin; and as callers give them."""

from __future__ import annotations

from datetime import timedelta
from numbers import Real

MINUTE = 60
# Those below are shown in the next smaller unit; the three digits of 0.9995 s would be 1,000 ms.
SECOND, MILLISECOND = 0.9995, 0.0009995


def duration(time: timedelta | float) -> str:
    """Formats `time`, a timedelta or a number of seconds, in its two largest units: "81 us", "1.9 ms", "12.3 s", "7
    min", "2 h 5 min", "3 d 4 h". A negative one counts as zero. The symbols are the same in every language."""
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    if seconds < MINUTE:
        if seconds >= SECOND or seconds <= 0:
            return f"{max(seconds, 0):.3g} s"
        return f"{seconds * 1e3:.3g} ms" if seconds >= MILLISECOND else f"{seconds * 1e6:.3g} us"
    whole = int(seconds)
    units = [(whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    while not units[0][0]:
        del units[0]
    return " ".join(f"{count} {unit}" for count, unit in units[:2] if count)


def timedelta_of(delay: timedelta | float) -> timedelta | None:
    """Returns a timedelta, or a number of seconds, as a timedelta: the longest one where it is too long. None for
    anything else."""
    if isinstance(delay, timedelta):
        return delay
    if isinstance(delay, bool) or not isinstance(delay, Real) or delay != delay:  # noqa: PLR0124 - NaN alone is not
        return None
    try:
        return timedelta(seconds=float(delay))
    except OverflowError:
        return timedelta.max if delay > 0 else timedelta(0)


def brief(value: object) -> str:
    try:
        return repr(value)[:100]
    except Exception:  # noqa: BLE001 - an int of thousands of digits has no text, and a class of the project may raise
        return f"{type(value).__name__} without a text"
