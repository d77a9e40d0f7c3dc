"""Celery's crontab as a cron line. Celery's fields know ranges around the end ("22-4") and long names ("sunday"), and
with a day of month and a weekday both must match, where cron takes either."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# In the order of a cron line: Celery's name, the least and the greatest value.
FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day_of_month", 1, 31),
    ("month_of_year", 1, 12),
    ("day_of_week", 0, 6),
)
_part = re.compile(r"(?:(?P<all>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")
BOTH_DAYS = (
    "it names days of the month and weekdays: Celery runs when both match, cron when either does. "
    "Let the task check one of the two"
)


class UnusableError(ValueError):
    """A schedule of Celery's that cannot be one of ours; the message says why."""


def cron_line(fields: Mapping[str, Any]) -> str:
    """From the texts of django-celery-beat's columns, or the sets of a crontab object. Raises UnusableError."""
    values = [(_numbers(fields[name], least, most), least, most) for name, least, most in FIELDS]
    line = [_as_field(*each) for each in values]
    days, weekdays = line[2], line[4]
    if not (days.startswith("*") or weekdays.startswith("*")):
        raise UnusableError(BOTH_DAYS)
    return " ".join(line)


def _numbers(value: Any, least: int, most: int) -> set[int]:
    if isinstance(value, int):
        return {value}
    if isinstance(value, Collection) and not isinstance(value, str):
        return set(value)
    parts = str(value).replace(" ", "").lower().split(",")
    return set().union(*(_of_part(part, least, most) for part in parts))


def _of_part(part: str, least: int, most: int) -> list[int]:
    found = _part.fullmatch(part)
    if found is None:
        raise UnusableError(f"{part!r} is no part of a crontab")
    if found["all"]:
        numbers = list(range(least, most + 1))
    else:
        first = _number(found["first"], least, most)
        last = first if found["last"] is None else _number(found["last"], least, most)
        around = [*range(first, most + 1), *range(least, last + 1)]
        numbers = list(range(first, last + 1)) if first <= last else around
    step = int(found["step"] or 1)
    if step < 1:
        raise UnusableError(f"{part!r} has a step of 0")
    return numbers[::step]


def _number(text: str, least: int, most: int) -> int:
    names = [*DAYS] if most == FIELDS[4][2] else [*MONTHS]
    if text[:3] in names:
        return names.index(text[:3]) + least
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UnusableError(f"{text!r} is not from {least} to {most}")
    return int(text)


def _as_field(numbers: set[int], least: int, most: int) -> str:
    """In cron's shortest form: "*", "*/15", "9-17", "1,15"."""
    ordered = sorted(numbers)
    if len(ordered) > 2:  # noqa: PLR2004 - else a list reads better
        for step in range(1, most - least + 1):
            if ordered == list(range(least, most + 1, step)):
                return "*" if step == 1 else f"*/{step}"
        if ordered == list(range(ordered[0], ordered[-1] + 1)):
            return f"{ordered[0]}-{ordered[-1]}"
    return ",".join(map(str, ordered))
