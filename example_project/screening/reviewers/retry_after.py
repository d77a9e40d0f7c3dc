"""Parses the Retry-After header, in which a busy server says how long to wait."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT_SECONDS = 3600.0


def parse_retry_after(retry_after: str | None) -> float | None:
    """The seconds to wait, from a number or a date in the header. None when there is neither."""
    if retry_after is None:
        return None
    seconds = _as_number(retry_after)
    if seconds is None:
        seconds = _as_date(retry_after)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def _as_number(text: str) -> float | None:
    return float(text) if text.strip().isdecimal() else None


def _as_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
