"""The options of a task and where each comes from: .using() > @task(...) > the queue's > OPTIONS > built in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from pgonly_django.conf import LONGEST, unknown_key
from pgonly_django.exceptions import OptionError
from pgonly_django.queue.retry import Backoff, BackoffFunction
from pgonly_django.tasks.task_fields import what_is_wrong_with_name

MAX_ATTEMPTS_LIMIT = 1000
DURATION = f"a positive timedelta of at most {LONGEST.days:,} days"
NO_DEFAULTS = ("database", "queues")  # in the OPTIONS of TASKS, and no defaults of tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of one call. Durations are timedeltas; `retention` None keeps finished jobs for ever."""

    max_attempts: int = 4
    backoff: BackoffFunction = field(default_factory=Backoff)
    max_runtime: timedelta | None = None
    atomic: bool = False
    retention: timedelta | None = timedelta(days=7)


OPTION_NAMES = tuple(f.name for f in fields(TaskOptions))


def _is_attempts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_ATTEMPTS_LIMIT


def _is_duration_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, timedelta) and timedelta(0) < value <= LONGEST)


# Whether a value is allowed, and the rule in words.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_attempts": (_is_attempts, f"a whole number from 1 to {MAX_ATTEMPTS_LIMIT}"),
    "backoff": (callable, "a Backoff or a callable (attempt, error) -> timedelta"),
    "max_runtime": (_is_duration_or_none, f"{DURATION} or None"),
    "atomic": (lambda value: isinstance(value, bool), "True or False"),
    "retention": (_is_duration_or_none, f"{DURATION} or None (keep for ever)"),
}


def validated(options: Mapping[str, Any], where: str, beside: Sequence[str] = ()) -> dict[str, Any]:
    """`options`, once their names, types and bounds are checked. Raises OptionError that names `where`, the option and
    its value.

    `beside`: other names that are allowed in the same place, for the message about an unknown one.
    """
    for name, value in options.items():
        if name not in RULES:
            raise OptionError(unknown_key(where + ": %s", name, (*OPTION_NAMES, *beside)))
        is_allowed, rule = RULES[name]
        if not is_allowed(value):
            raise OptionError(f"{where}: {name} must be {rule}, got {value!r}.")
    return dict(options)


@dataclass(frozen=True)
class Defaults:
    """The OPTIONS of one TASKS entry, validated: defaults for all tasks, and by queue."""

    common: dict[str, Any]
    by_queue: dict[str, dict[str, Any]]

    @classmethod
    def from_options(cls, alias: str, options: Mapping[str, Any]) -> Defaults:
        """Raises ImproperlyConfigured for an option that @task() would refuse."""
        where = f'TASKS[{alias!r}]["OPTIONS"]'
        rest = {name: value for name, value in options.items() if name not in NO_DEFAULTS}
        try:
            common = validated(rest, where, NO_DEFAULTS)
            return cls(common, _by_queue(options.get("queues", {}), f'{where}["queues"]'))
        except OptionError as error:
            raise ImproperlyConfigured(str(error)) from error

    def resolve(self, queue: str, *layers: Mapping[str, Any]) -> TaskOptions:
        """The options of a call on `queue`; later `layers` win (the decorator's, then .using()'s)."""
        merged: dict[str, Any] = {**self.common, **self.by_queue.get(queue, {})}
        for layer in layers:
            merged.update(layer)
        return TaskOptions(**merged)


def _by_queue(queues: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(queues, Mapping):
        raise OptionError(
            f"{where} must be a dict of options by queue name, got {queues!r}. The names that are allowed belong "
            'in "QUEUES", beside "OPTIONS".'
        )
    for queue, values in queues.items():
        if wrong := what_is_wrong_with_name(queue):
            raise OptionError(f"{where}: a name must be {wrong}, got {queue!r}.")
        if not isinstance(values, Mapping):
            raise OptionError(f"{where}[{queue!r}] must be a dict of options, got {values!r}.")
    return {queue: validated(values, f"{where}[{queue!r}]") for queue, values in queues.items()}


def storable(overrides: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options of .using() that have no column, as JSON for the row; None when there are none."""
    stored: dict[str, Any] = {}
    if "atomic" in overrides:
        stored["atomic"] = overrides["atomic"]
    backoff = overrides.get("backoff")
    if isinstance(backoff, Backoff):
        stored["backoff"] = {"base": backoff.base.total_seconds(), "cap": backoff.cap.total_seconds()}
    elif backoff is not None:
        stored["backoff"] = _dotted_path(backoff)
    return stored or None


def restored(stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """The inverse of storable(), in the worker."""
    if not stored:
        return {}
    options = dict(stored)
    backoff = options.get("backoff")
    if isinstance(backoff, dict):
        base, cap = timedelta(seconds=backoff["base"]), timedelta(seconds=backoff["cap"])
        options["backoff"] = Backoff(base=base, cap=cap)
    elif backoff is not None:
        options["backoff"] = import_string(backoff)
    return options


def _dotted_path(function: Any) -> str:
    path = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    try:
        found = import_string(path)
    except ImportError:
        found = None
    if found is not function:
        raise OptionError(
            f".using(backoff=...) is stored with the job, so it must be a Backoff or a function at module level, "
            f"got {function!r}."
        )
    return path
