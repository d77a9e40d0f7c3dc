"""Stops all callers of a limiter for a while: the provider has said that it is too much."""

import time
from datetime import timedelta
from typing import Any

from pgonly_django.conf import LONGEST_SECONDS
from pgonly_django.database.operation import Operation, Signal
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement
from pgonly_django.events import emit
from pgonly_django.exceptions import LimitsUnavailableError, WrongArgumentsError
from pgonly_django.limits.declarations import declare, raise_unknown
from pgonly_django.limits.pool_user import call
from pgonly_django.tables import qualified

PATIENCE_SECONDS, RETRY_SECONDS = 5.0, 0.5
Duration = float | timedelta  # seconds, or a timedelta

# Index: the primary key. Of two that overlap the longer one counts.
COOL_DOWN = Statement(
    qualified("""UPDATE pgonly_limiter
    SET blocked_until = greatest(blocked_until, clock_timestamp() + %(seconds)s::float8 * interval '1 second')
    WHERE name = %(name)s::text RETURNING name""")
)


def cool_down(pool: Pool, name: str, seconds: float) -> Operation[None]:
    """Let no caller in for so many seconds. Raises UnknownLimiterError and LimitsError, the latter for a PostgreSQL
    that has been away for PATIENCE_SECONDS."""
    patience_ends_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return (yield from _cool_down(pool, name, seconds))
        except LimitsUnavailableError:
            if time.monotonic() >= patience_ends_at:
                raise
        yield Signal(RETRY_SECONDS)


def _cool_down(pool: Pool, name: str, seconds: float) -> Operation[None]:
    yield from declare(pool, name)
    result = yield from call(pool, COOL_DOWN, name=name, seconds=seconds)
    if not result.ntuples:
        yield from declare(pool, name, again=True)
        result = yield from call(pool, COOL_DOWN, name=name, seconds=seconds)
    if not result.ntuples:
        yield from raise_unknown(pool, name)
    emit(
        "limits.cooling_down",
        f"Limiter {name!r} lets no caller in for {seconds:g} s.",
        limiter=name,
        seconds=seconds,
    )


def in_seconds(duration: Any, what: str) -> float:
    """Not below zero, and not longer than PostgreSQL's dates. Raises WrongArgumentsError for what is no duration."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    return number(seconds, what, "seconds or a timedelta, not below 0", LONGEST_SECONDS)


def number(value: Any, what: str, kind: str = "a number, not below 0", most: float = 1e15) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not value >= 0:
        raise WrongArgumentsError("limiter()", f"{what} must be {kind}, got {value!r}")
    return float(min(value, most))
