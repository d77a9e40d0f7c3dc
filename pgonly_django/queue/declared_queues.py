"""PGONLY["QUEUES"]: the limits of queues as the settings have them. The rows of pgonly_queue are what claims obey."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from pgonly_django.conf import LONGEST_SECONDS, settings, unknown_key
from pgonly_django.database.statement import printable
from pgonly_django.models import Queue

NAME_LENGTH = 64  # of pgonly_job.queue
MOST_RUNNING, MOST_STARTS = 1_000_000, 1_000_000
RATE = "a pair such as (10, 60): at most 10 starts per 60 seconds"
DOCS = "docs/how-to/concurrency.md#checks"
# `task` makes the queue one of dead letters: see tasks/failures.py.
KEYS = ("max_running", "rate", "limiter", "task")


def declare_queues(alias: str, names: Iterable[str] = ()) -> int:
    """Makes the rows say what the settings say, and gives the queues `names` a row without limits. What a person has
    edited or a newer process declares stays. Returns how many rows are new or have changed. Raises
    ImproperlyConfigured, and django.db.Error."""
    declarations = {name: limits_of(name, {}) for name in names} | declared_limits()
    changed: int = Queue.objects.using(alias).declare(declarations)
    return changed


def declared_limits() -> dict[str, dict[str, Any]]:
    """Returns, by queue, the columns of pgonly_queue. Raises ImproperlyConfigured."""
    return {name: limits_of(name, entry) for name, entry in settings().queues.items()}


def limits_of(name: Any, entry: Any) -> dict[str, Any]:
    """Returns the limits of one entry. Raises ImproperlyConfigured, which names the place, the value and the remedy."""
    where = f'PGONLY["QUEUES"][{name!r}]'
    if not (isinstance(name, str) and 0 < len(name) <= NAME_LENGTH and printable(name) == name):
        raise ImproperlyConfigured(f"{where}: a queue's name must be a str of 1 to {NAME_LENGTH} characters.")
    if not isinstance(entry, Mapping):
        raise ImproperlyConfigured(f'{where} must be a dict, such as {{"max_running": 5}}, got {entry!r}.')
    for key, value in entry.items():
        if key not in KEYS:
            raise ImproperlyConfigured(unknown_key(f'{where}["%s"]', key, KEYS))
        if value is not None and (reason := what_is_wrong(key, value)):
            raise ImproperlyConfigured(f'{where}["{key}"] must be {reason}, got {value!r}.')
    count, seconds = entry.get("rate") or (None, None)
    return {
        "max_running": entry.get("max_running"),
        "rate_count": count,
        "rate_seconds": None if seconds is None else float(seconds),
        "limiter": entry.get("limiter"),
    }


def check_queues(**_: object) -> list[checks.CheckMessage]:
    """The system check E009: PGONLY["QUEUES"] does not validate."""
    try:
        declared_limits()
    except ImproperlyConfigured as error:
        # What is wrong with PGONLY as a whole is E001's business.
        if str(error).startswith('PGONLY["QUEUES"]['):
            return [checks.Error(str(error), hint=f"See {DOCS}.", id="pgonly_django.E009")]
    return []


def what_is_wrong(key: str, value: Any) -> str | None:
    """Returns what the value must be, or None when it is right."""
    match key:
        case "max_running":
            return None if _is_count(value, MOST_RUNNING) else f"a whole number from 1 to {MOST_RUNNING:,}"
        case "rate":
            return None if _is_rate(value) else RATE
        case "limiter":
            return _what_is_wrong_with_limiter(value)
        case _:
            return None


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_rate(value: Any) -> bool:
    if not isinstance(value, tuple | list) or len(value) != len(("count", "seconds")):
        return False
    count, seconds = value
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return _is_count(count, MOST_STARTS) and is_number and 0 < seconds <= LONGEST_SECONDS


def _what_is_wrong_with_limiter(value: Any) -> str | None:
    known = sorted(map(str, settings().limiters))  # E401 names those that are not text
    if isinstance(value, str) and value in known:
        return None
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else f" (known are: {', '.join(known) or 'none'})"
    return f'the name of one in PGONLY["LIMITERS"]{hint}'
