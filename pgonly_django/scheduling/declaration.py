"""One schedule as a decorator, the settings or a form declares it, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

from django.utils import timezone as django_timezone

from pgonly_django.conf import LONGEST, LONGEST_SECONDS
from pgonly_django.exceptions import NotStorableError, OptionError
from pgonly_django.queue.values import to_json
from pgonly_django.scheduling.timing import CronLine, TimingError, zone_of
from pgonly_django.tasks.metadata import metadata_text
from pgonly_django.tasks.options import NAME_RULE, PATH_LENGTH, what_is_wrong_with_name
from pgonly_django.tasks.task import PostgresTask

# The choices of the columns, as text: decorators import this module, perhaps before the models can be loaded.
CatchUp = Literal["latest", "all", "none"]
Overlap = Literal["skip", "allow", "replace"]
CATCH_UP, OVERLAP = get_args(CatchUp), get_args(Overlap)
NAME_LENGTH = 255
SHORTEST_SECONDS = 0.1
SKIPS_ALL_BUT_ONE = (
    'catch_up="all" runs every tick that was missed, and overlap="skip" would skip all but the first of them. '
    'Write overlap="allow".'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """The declaration of a schedule. `task` is a dotted path. `every` is a timedelta or seconds. `overlap` None: skip,
    but allow with catch_up "all". `timezone` None: TIME_ZONE. The values may be anything until problems() has found
    nothing."""

    name: str
    task: str
    cron: str | None = None
    every: timedelta | float | None = None
    timezone: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: str | None = None
    priority: int | None = None
    catch_up: str = "latest"
    overlap: str | None = None
    budget: str | None = None
    metadata: Mapping[str, Any] | None = None

    def columns(self) -> dict[str, Any]:
        """Returns what Schedule.objects.declare() takes: values that JSON holds."""
        return {
            "task": self.task,
            "cron": self.cron,
            "every_seconds": seconds_of(self.every),
            "timezone": self.timezone or django_timezone.get_default_timezone_name(),
            "args": json.loads(to_json(list(self.args), "args")),  # as they come back from the row
            "kwargs": json.loads(to_json(dict(self.kwargs), "kwargs")),
            "queue": self.queue,
            "priority": self.priority,
            "catch_up": self.catch_up,
            "overlap": self.overlap or ("allow" if self.catch_up == "all" else "skip"),
            "budget": self.budget,
            "metadata": json.loads(metadata_text(self.metadata, "metadata") or "null"),
        }

    def problems(self) -> dict[str, str]:
        """Returns, by the names of the fields, what is wrong, with what value, and what to do."""
        found = {name: reason for name, rule in RULES.items() if (reason := rule(getattr(self, name)))}
        if (self.cron is None) == (self.every is None):
            found["cron"] = "it needs either a cron line or an interval (every), and not both."
        elif self.cron is not None and not found.keys() & {"cron", "timezone"}:
            found |= _what_is_wrong_with_line(self.cron, self.timezone or "UTC")
        if self.catch_up == "all" and self.overlap == "skip":
            found["overlap"] = SKIPS_ALL_BUT_ONE
        return found

    def validate(self, where: str) -> Declaration:
        """Raises OptionError, with the place `where`, for all of problems(). Returns the declaration."""
        if problems := self.problems():
            raise OptionError(" ".join(f"{where}: {reason}" for reason in problems.values()))
        return self


def as_scheduled(task: Any, chosen: Any) -> Any:
    """Returns the task with the queue, priority, budget and metadata that a schedule, or its declaration, has chosen.
    Raises InvalidTask and OptionError where it cannot have them. A task of another backend, which nothing schedules,
    stays as it is."""
    if not isinstance(task, PostgresTask):
        return task
    options = {"queue_name": chosen.queue, "priority": chosen.priority, "budget": chosen.budget or None}
    options["metadata"] = chosen.metadata or None
    return task.using(**{name: value for name, value in options.items() if value is not None})


def seconds_of(every: timedelta | float | None) -> float | None:
    return every / timedelta(seconds=1) if isinstance(every, timedelta) else every


def _what_is_wrong_with_line(line: str, zone: str) -> dict[str, str]:
    try:
        is_empty = CronLine(line, zone).is_empty
    except TimingError as error:
        return {"cron": str(error)}
    return {"cron": f"{line!r} has no time in the next 50 years."} if is_empty else {}


Rule = Callable[[Any], str]


def _rule(is_allowed: Callable[[Any], bool], words: str) -> Rule:
    return lambda value: "" if is_allowed(value) else f"{words}, got {value!r}."


def _or_none(rule: Rule) -> Rule:
    return lambda value: "" if value is None else rule(value)


def _text(name: str, longest: int) -> Rule:
    def is_text(value: Any) -> bool:
        return isinstance(value, str) and 0 < len(value) <= longest and "\0" not in value

    return _rule(is_text, f"{name} must be text of 1 to {longest} characters without NUL")


def _choice(name: str, choices: Sequence[str]) -> Rule:
    named = ", ".join(f'"{choice}"' for choice in choices)
    return _rule(lambda value: value in choices, f"{name} must be one of {named}")


def _is_interval(value: Any) -> bool:
    number: Any = seconds_of(value)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return is_number and SHORTEST_SECONDS <= number <= LONGEST_SECONDS


def _is_priority(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -100 <= value <= 100  # noqa: PLR2004 - Django's


def _timezone(value: Any) -> str:
    if not isinstance(value, str):
        return f'timezone must be a name such as "Europe/Berlin", got {value!r}.'
    try:
        zone_of(value)
    except TimingError as error:
        return str(error)
    return ""


def _storable(kind: type | tuple[type, ...], words: str) -> Rule:
    def what_is_wrong(value: Any) -> str:
        names = value if isinstance(value, Mapping) else ()
        if not isinstance(value, kind) or not all(isinstance(name, str) for name in names):
            return f"{words}, got {value!r}."
        try:
            to_json(value, "It")
        except NotStorableError as error:
            return f"{words}. {error}"
        return ""

    return what_is_wrong


def _metadata(value: Any) -> str:
    try:
        metadata_text(value, "metadata")
    except (OptionError, NotStorableError) as error:
        return str(error)
    return ""


_CRON = 'the cron line must be text such as "0 3 * * *"'
_EVERY = f"every must be a timedelta or seconds, from {SHORTEST_SECONDS} s to {LONGEST.days:,} days"
# What is wrong with the value of a field by itself, in words; "" where nothing is.
RULES: dict[str, Rule] = {
    "name": _text("name", NAME_LENGTH),
    "task": _text("task", PATH_LENGTH),
    "cron": _or_none(_rule(lambda value: isinstance(value, str) and len(value) <= NAME_LENGTH, _CRON)),
    "every": _or_none(_rule(_is_interval, _EVERY)),
    "timezone": _or_none(_timezone),
    "args": _storable((list, tuple), "args must be a list of values that JSON can hold"),
    "kwargs": _storable(dict, "kwargs must be a dict of values that JSON can hold, by name"),
    "queue": _or_none(_rule(lambda value: not what_is_wrong_with_name(value), f"queue must be {NAME_RULE}")),
    "priority": _or_none(_rule(_is_priority, "priority must be from -100 to 100")),
    "catch_up": _choice("catch_up", CATCH_UP),
    "overlap": _or_none(_choice("overlap", OVERLAP)),
    "budget": _or_none(_text("budget", NAME_LENGTH)),
    "metadata": _metadata,
}
