"""PGONLY["LIMITERS"]: the limiters and what they allow. Their rows tell all processes, and keep people's changes."""

import difflib
from collections.abc import Iterable
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.conf import settings, unknown_key
from pgonly_django.database.operation import Operation
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement
from pgonly_django.exceptions import UnknownLimiterError
from pgonly_django.limits.declared_rows import DeclaredRows
from pgonly_django.limits.pool_user import call
from pgonly_django.models.declared import NAME_LENGTH
from pgonly_django.tables import qualified

Limits = dict[str, float | None]
MOST_SLOTS = 10_000
MOST_PER_MINUTE = 1e12
LIMITER_KEYS = ("concurrent", "requests_per_minute", "tokens_per_minute")


def limits_of(name: Any, entry: Any) -> Limits:
    """Returns the limits of one entry, None where it has none. Raises ImproperlyConfigured."""
    where = f'PGONLY["LIMITERS"][{name!r}]'
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH or "\0" in name:
        raise ImproperlyConfigured(
            f"{where}: a limiter's name must be a str of 1 to {NAME_LENGTH} characters."
        )
    if not isinstance(entry, dict):
        raise ImproperlyConfigured(f'{where} must be a dict, such as {{"concurrent": 5}}, got {entry!r}.')
    for key, value in entry.items():
        if key not in LIMITER_KEYS:
            raise ImproperlyConfigured(unknown_key(f'{where}["%s"]', key, LIMITER_KEYS))
        if reason := what_is_wrong(key, value):
            raise ImproperlyConfigured(f'{where}["{key}"] must be {reason}, got {value!r}.')
    return {key: entry.get(key) for key in LIMITER_KEYS}


def what_is_wrong(key: str, value: Any) -> str | None:
    """Returns what this limit must be, or None when it is right. None means no limit."""
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == "concurrent":
        is_right = is_number and isinstance(value, int) and 0 < value <= MOST_SLOTS
        return None if is_right else f"a whole number from 1 to {MOST_SLOTS:,}, or None"
    return None if is_number and 0 < value <= MOST_PER_MINUTE else "a number above 0, or None"


ROWS = DeclaredRows(
    "pgonly_limiter",
    {"concurrent": "int4", "requests_per_minute": "float8", "tokens_per_minute": "float8"},
)


def declare(pool: Pool, name: str, *, again: bool = False) -> Operation[None]:
    """Makes the limiter's row say what the settings say: see DeclaredRows.declare()."""
    entries = settings().limiters
    if name in entries:
        yield from ROWS.declare(pool, name, limits_of(name, entries[name]), again=again)


NAMES = Statement(qualified("SELECT name FROM pgonly_limiter ORDER BY name LIMIT 1000"))


def no_such_limiter(pool: Pool, name: str) -> Operation[UnknownLimiterError]:
    """Returns the error for a name that neither the settings nor the rows have."""
    result = yield from call(pool, NAMES)
    return unknown(name, {bytes(result.get_value(row, 0) or b"").decode() for row in range(result.ntuples)})


def unknown(name: str, rows: Iterable[str] = ()) -> UnknownLimiterError:
    """Returns the error for a name that neither the settings nor `rows` have."""
    known = sorted({*rows, *map(str, settings().limiters)})
    same = [each for each in known if each.lower() == name.lower()]
    near = same or difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(known) or 'none'}."
    return UnknownLimiterError(name, f'{hint} Declare it in PGONLY["LIMITERS"].')


def check_limiters(**_: Any) -> list[checks.CheckMessage]:
    """The system check E401: an entry of PGONLY["LIMITERS"] has an unknown key or a wrong value."""
    try:
        entries = settings().limiters
    except ImproperlyConfigured:  # E001 says so
        return []
    found: list[checks.CheckMessage] = []
    for name, entry in entries.items():
        try:
            limits_of(name, entry)
        except ImproperlyConfigured as error:
            hint = "See docs/how-to/limits.md#checks."
            found.append(checks.Error(str(error), hint=hint, id="pgonly_django.E401"))
    return found
