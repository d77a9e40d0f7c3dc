"""Problems and their wording: the rows of a table of conditions, and the findings that they make."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any

from django.utils.functional import Promise

from pgonly_django.wording import duration

NAMED_AT_MOST = 5


class Level(StrEnum):
    ERROR = "error"  # jobs or data are at stake now
    WARNING = "warning"  # it costs time or space, or will become an error
    INFO = "info"  # worth knowing; also what could not be seen


# The worst first.
ORDER = (Level.ERROR, Level.WARNING, Level.INFO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A finding. `id` is stable, and explained in docs/how-to/doctor.md; it is "" for problems that the doctor does not
    examine."""

    id: str
    level: Level
    fact: str  # what was found, with the number
    advice: str = ""  # what to do: the command or the SQL
    data: dict[str, Any] = field(default_factory=dict)  # the same for programs, as JSON can hold it
    about: Any = None  # the row or the figures that it was found in, for a link to them
    subject: str = ""  # of the doctor; examine() fills it in

    def as_dict(self) -> dict[str, Any]:
        names = ("id", "level", "fact", "advice", "data", "subject")
        return {name: getattr(self, name) for name in names}


@dataclass(slots=True)
class Condition:
    """A row of the table. `fact` and `advice` are templates of str.format(), of the facts that finding() is given;
    beside Python's own a field may have the formats of FORMATS, and "{count:n job}" is "1 job" or "1,204 jobs"."""

    id: str
    level: Level
    fact: str | Promise
    advice: str = ""
    limit: float = 0.0  # it holds from here on: seconds, or a number
    error_from: float = inf  # and is an error from here on,
    measure: str = "seconds"  # which are compared with this fact

    def finding(self, *, about: Any = None, level: Level | None = None, **facts: Any) -> Finding:
        """Returns the finding. Facts whose name begins with "_" are for the words alone."""
        is_error = (facts.get(self.measure) or 0) >= self.error_from
        return Finding(
            id=self.id,
            level=level or (Level.ERROR if is_error else self.level),
            fact=_words.vformat(str(self.fact), (), facts),
            advice=_words.vformat(self.advice, (), facts),
            data={name: value for name, value in facts.items() if not name.startswith("_")},
            about=about,
        )


def counted(number: int, noun: str) -> str:
    """Returns a count with its noun: "1 job", "1,204 jobs"; the plural may follow the noun: "entry/entries"."""
    one, _, more = noun.partition("/")
    return f"{number:,} {one if number == 1 else more or f'{one}s'}"


def named(names: list[str]) -> str:
    """Returns the first NAMED_AT_MOST of them, and how many more there are."""
    rest = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def identifier(*parts: str) -> str:
    """Returns a name as SQL has it: `"job_queue"."pgonly_job"`."""
    return ".".join('"{}"'.format(part.replace('"', '""')) for part in parts)


def _time(seconds: float) -> str:
    """Formats a time in whole seconds: on a page that refreshes itself, fractions would only flicker."""
    return duration(seconds if seconds < 1 else int(seconds))


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{_time(seconds)} ago"


FORMATS: dict[str, Callable[[Any], str]] = {
    "time": _time, "ago": _ago, "names": named, "sql": identifier,
}  # fmt: skip


class _Words(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec.startswith("n "):
            return counted(value, format_spec.removeprefix("n "))
        return FORMATS[format_spec](value) if format_spec in FORMATS else format(value, format_spec)


_words = _Words()


def database_flag(alias: str) -> str:
    """Returns the flag for the commands in an advice."""
    return "" if alias == "default" else f" --database {alias}"
