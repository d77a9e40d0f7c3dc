"""The options of a task: which values they may have, and those of .using() in the row of a job."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any

from django.utils.module_loading import import_string

from pgonly_django.conf import LONGEST, unknown_key
from pgonly_django.exceptions import OptionError
from pgonly_django.queue.retry import Backoff, BackoffFunction

MAX_ATTEMPTS_LIMIT = 1000
CONCURRENCY_LIMIT, SLOTS_LIMIT = 10_000, 1000
DURATION = f"a positive timedelta of at most {LONGEST.days:,} days"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of one call. Durations are timedeltas; `retention` None keeps finished jobs for ever."""

    max_attempts: int = 4
    backoff: BackoffFunction = field(default_factory=Backoff)
    max_runtime: timedelta | None = None
    atomic: bool = False
    retention: timedelta | None = timedelta(days=7)
    concurrency_key: str | Callable[..., Any] | None = None
    concurrency_limit: int = 1
    slots: int = 1


OPTION_NAMES = tuple(f.name for f in fields(TaskOptions))


def _is_from_1_to(limit: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit


def _is_duration_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, timedelta) and timedelta(0) < value <= LONGEST)


def _is_key_rule(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "") or callable(value)


KEY_RULE = "a template such as 'account:{account_id}', a callable that gets the arguments, or None"
# Whether a value is allowed, and the rule in words.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_attempts": (_is_from_1_to(MAX_ATTEMPTS_LIMIT), f"a whole number from 1 to {MAX_ATTEMPTS_LIMIT}"),
    "backoff": (callable, "a Backoff or a callable (attempt, error) -> timedelta"),
    "max_runtime": (_is_duration_or_none, f"{DURATION} or None"),
    "atomic": (lambda value: isinstance(value, bool), "True or False"),
    "retention": (_is_duration_or_none, f"{DURATION} or None (keep for ever)"),
    "concurrency_key": (_is_key_rule, KEY_RULE),
    "concurrency_limit": (
        _is_from_1_to(CONCURRENCY_LIMIT),
        f"a whole number from 1 to {CONCURRENCY_LIMIT:,}",
    ),
    "slots": (_is_from_1_to(SLOTS_LIMIT), f"a whole number from 1 to {SLOTS_LIMIT}"),
}


def validated(
    options: Mapping[str, Any], where: str, beside: Sequence[str] = (), error: type[Exception] = OptionError
) -> dict[str, Any]:
    """A copy of `options`. Raises `error`, with `where`, for a wrong name, type or bound. `beside`: other names that
    are allowed in the same place, for the message about an unknown one."""
    for name, value in options.items():
        if name not in RULES:
            raise error(unknown_key(where + ": %s", name, (*OPTION_NAMES, *beside)))
        is_allowed, rule = RULES[name]
        if not is_allowed(value):
            raise error(f"{where}: {name} must be {rule}, got {value!r}.")
    return dict(options)


def storable(overrides: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options of .using() that have no column, as JSON for the row; None when there are none."""
    stored = {name: overrides[name] for name in ("atomic", "backoff") if name in overrides}
    backoff = stored.get("backoff")
    if isinstance(backoff, Backoff):
        stored["backoff"] = {"base": backoff.base.total_seconds(), "cap": backoff.cap.total_seconds()}
    elif backoff is not None:
        stored["backoff"] = _dotted_path(backoff)
    return stored or None


def restored(stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """The inverse of storable(), in the worker."""
    options = dict(stored or {})
    backoff = options.get("backoff")
    if isinstance(backoff, dict):
        options["backoff"] = Backoff(**{name: timedelta(seconds=value) for name, value in backoff.items()})
    elif backoff is not None:
        options["backoff"] = import_string(backoff)
    return options


def _dotted_path(function: Any) -> str:
    path = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    with contextlib.suppress(ImportError):
        if import_string(path) is function:
            return path
    rule = "is stored with the job, so it must be a Backoff or a function at module level"
    raise OptionError(f".using(backoff=...) {rule}, got {function!r}.")
