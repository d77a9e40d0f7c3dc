"""Durations as operators read them: the same in the log, the commands and the admin."""

from __future__ import annotations

from datetime import timedelta

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
