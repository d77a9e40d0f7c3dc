"""The options of a task: the values that they may have, and those of .using() in the row of a job."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from inspect import isfunction
from numbers import Real
from typing import Any, Literal, TypedDict, get_args

from django.utils.module_loading import import_string

from pgonly_django.compat import InvalidTask
from pgonly_django.conf import FAILED_RETENTION, LONGEST, unknown_key
from pgonly_django.database.statement import printable
from pgonly_django.exceptions import OptionError
from pgonly_django.queue.carried import CARRIED_OPTIONS
from pgonly_django.queue.enqueue import TEMPLATE_COLUMNS, aware
from pgonly_django.queue.retry import BACKOFF_RULE, Backoff, BackoffFunction, backoff_parameters, described
from pgonly_django.tasks.error_policies import (
    ERRORS_RULE,
    POLICIES,
    ErrorClasses,
    is_error_classes,
    stored_errors,
)
from pgonly_django.tasks.of_celery import option_answer

NAME_LENGTH, PATH_LENGTH = 64, 255  # of the columns
NAME_RULE = f"a str of 1 to {NAME_LENGTH} characters without NUL"
YEARS = range(1000, 9000)  # of UTC: PostgreSQL and Python can both hold these in every time zone
MAX_ATTEMPTS_LIMIT = 1000
UniqueWhile = Literal["waiting", "unfinished", "retained"]  # those of the model, which is not loaded here
UNIQUE_WHILE: tuple[str, ...] = get_args(UniqueWhile)
CONCURRENCY_LIMIT, SLOTS_LIMIT = 10_000, 1000
DURATION = f"a positive timedelta of at most {LONGEST.days:,} days"
# Called with (task_result, error).
OnFailure = Callable[..., Any]


def validate_fields(task: Any) -> None:
    """Raises InvalidTask for a value of another type or size than its column. Django's rules apply as well."""
    if not isfunction(task.func):
        raise InvalidTask(
            f"Task function must be defined at a module level. {task.func!r} is not a function."
        )
    if len(path := task.module_path) > PATH_LENGTH:
        rule = f"The path of a task must be at most {PATH_LENGTH} characters long"
        raise InvalidTask(f"{rule}, got {len(path)}: {path[:80]}...")
    if wrong := what_is_wrong_with_name(task.queue_name):
        raise InvalidTask(f"queue_name must be {wrong}, got {task.queue_name!r}.")
    priority, moment = task.priority, task.run_after
    is_number = isinstance(priority, Real) and not isinstance(priority, bool)
    if not is_number or priority != priority:  # noqa: PLR0124 - only NaN differs from itself; Django cannot compare it
        raise InvalidTask(f"priority must be a whole number between -100 and 100. It cannot be {priority!r}.")
    if not isinstance(moment, datetime | None):
        remedy = "for a delay: timezone.now() + delay."
        raise InvalidTask(f"run_after must be an aware datetime. It cannot be {moment!r}; {remedy}")
    if moment is not None and not is_in_years(moment):
        raise InvalidTask(f"run_after must lie in the years {YEARS[0]} to {YEARS[-1]} of UTC, got {moment}.")


def is_in_years(moment: datetime) -> bool:
    """Returns whether the column can hold it: the constraint pgonly_job_times says the same."""
    return datetime(YEARS.start, 1, 1, tzinfo=UTC) <= aware(moment) < datetime(YEARS.stop, 1, 1, tzinfo=UTC)


def validate_place(task: Any) -> None:
    """Raises InvalidTask where a worker would not find the task at its path: the task has another name than its
    function, or another decorator hides it. Called by enqueue(): before that, its module may be half imported."""
    function = task.func
    module = sys.modules.get(function.__module__)
    found = getattr(module, function.__qualname__, None)
    if module is None or getattr(found, "func", None) is function:
        return
    there = "nothing" if found is None else f"a {type(found).__name__}"
    raise InvalidTask(
        f"A worker would look for this task at {task.module_path}, and there is {there} there. Give the task the name "
        "of its function, at the module's level, with @task as the outermost decorator."
    )


def what_is_wrong_with_name(name: Any) -> str:
    """Returns the rule for names of queues, for a message, where `name` breaks it; otherwise the empty string."""
    fits = isinstance(name, str) and 0 < len(name) <= NAME_LENGTH and printable(name) == name
    return "" if fits else NAME_RULE


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of one call. The docstrings of task() and PostgresTask.using() say what each is for."""

    max_attempts: int = 8
    backoff: BackoffFunction = field(default_factory=Backoff)
    max_runtime: timedelta | None = None
    atomic: bool = False
    retention: timedelta | None = timedelta(days=7)
    concurrency_key: str | Callable[..., Any] | None = None
    concurrency_limit: int = 1
    slots: int = 1
    failed_retention: timedelta | None = FAILED_RETENTION
    dead_letter_queue: str | None = None
    never_retry: ErrorClasses = ()
    retry_on: ErrorClasses = ()
    snooze_on: ErrorClasses = ()
    hold_on: ErrorClasses = ()
    on_failure: OnFailure | str | None = None
    budget: str | None = None
    unique: bool | Sequence[str] | Callable[..., Any] | None = None
    unique_for: timedelta | None = None
    unique_while: UniqueWhile | None = None
    debounce: timedelta | None = None
    idempotency_key: str | None = None


class JobOptions(TypedDict, total=False):
    """The types of the options that @task takes, for editors and mypy."""

    max_attempts: int
    backoff: BackoffFunction
    max_runtime: timedelta | None
    atomic: bool
    retention: timedelta | None
    concurrency_key: str | Callable[..., Any] | None
    concurrency_limit: int
    slots: int
    failed_retention: timedelta | None
    dead_letter_queue: str | None
    never_retry: ErrorClasses
    retry_on: ErrorClasses
    snooze_on: ErrorClasses
    hold_on: ErrorClasses
    on_failure: OnFailure | str | None
    budget: str | None
    unique: bool | Sequence[str] | Callable[..., Any] | None
    unique_for: timedelta | None
    unique_while: UniqueWhile | None
    debounce: timedelta | None


class CallOptions(JobOptions, total=False):
    """The types of the options that .using() takes."""

    idempotency_key: str | None


# Those that belong to one call: .using() alone takes them.
OF_ONE_CALL = ("idempotency_key", *CARRIED_OPTIONS)
OPTION_NAMES = tuple(f.name for f in fields(TaskOptions) if f.name not in OF_ONE_CALL)
# Those whose value stands in a column of all jobs of the task.
OF_TEMPLATE = tuple(name for name in OPTION_NAMES if name in TEMPLATE_COLUMNS)
WITHOUT_COLUMN = ("atomic", "backoff", *POLICIES, "on_failure", "budget")


def _is_from_1_to(limit: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit


def _is_duration_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, timedelta) and timedelta(0) < value <= LONGEST)


def _is_text_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "")


def _is_unique_rule(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return value is None or isinstance(value, bool) or is_list or callable(value)


def _is_backoff(value: Any) -> bool:
    try:
        return isinstance(value, Backoff) or backoff_parameters(value) is not None
    except OptionError:
        return False


def is_on_failure(value: Any) -> bool:
    """Returns whether it is a function that can be called with two arguments, or a dotted path, or None."""
    if value is None or isinstance(value, str):
        return value is None or "." in value
    try:
        inspect.signature(value).bind(None, None)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, type)


UNIQUE_RULE = "True, False, a list of argument names, a callable that gets the arguments, or None"
KEY_RULE = "a template such as 'account:{account_id}', a callable that gets the arguments, or None"
# Whether a value is allowed, and the rule in words.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_attempts": (_is_from_1_to(MAX_ATTEMPTS_LIMIT), f"a whole number from 1 to {MAX_ATTEMPTS_LIMIT}"),
    "backoff": (_is_backoff, f"a Backoff, or {BACKOFF_RULE}"),
    "max_runtime": (_is_duration_or_none, f"{DURATION} or None"),
    "atomic": (lambda value: isinstance(value, bool), "True or False"),
    "retention": (_is_duration_or_none, f"{DURATION} or None (keep forever)"),
    "concurrency_key": (lambda value: _is_text_or_none(value) or callable(value), KEY_RULE),
    "concurrency_limit": (
        _is_from_1_to(CONCURRENCY_LIMIT),
        f"a whole number from 1 to {CONCURRENCY_LIMIT:,}",
    ),
    "slots": (_is_from_1_to(SLOTS_LIMIT), f"a whole number from 1 to {SLOTS_LIMIT}"),
    "failed_retention": (_is_duration_or_none, f"{DURATION} or None (keep forever)"),
    "dead_letter_queue": (
        lambda value: value is None or not what_is_wrong_with_name(value),
        f"the name of a queue, of 1 to {NAME_LENGTH} characters, or None",
    ),
    **dict.fromkeys(POLICIES, (is_error_classes, ERRORS_RULE)),
    "on_failure": (is_on_failure, "a function (task_result, error), its dotted path, or None"),
    "budget": (_is_text_or_none, "a budget's name, or a template such as 'project:{project_id}', or None"),
    "unique": (_is_unique_rule, UNIQUE_RULE),
    "unique_for": (_is_duration_or_none, f"{DURATION} or None"),
    "unique_while": (lambda value: value is None or value in UNIQUE_WHILE, f"one of {UNIQUE_WHILE} or None"),
    "debounce": (_is_duration_or_none, f"{DURATION} or None"),
    "idempotency_key": (_is_text_or_none, "a str that is not empty, or None"),
    "metadata": (lambda value: isinstance(value, Mapping | None), "a dict, or None"),  # see tasks/metadata.py
    "then": (lambda _: True, "a task, what its bind() returns, or None"),  # see PostgresTask.using()
}


def validated(
    options: Mapping[str, Any],
    where: str,
    beside: Sequence[str] = (),
    error: type[Exception] = OptionError,
    *,
    of_one_call: bool = False,
) -> dict[str, Any]:
    """Returns a copy of `options`, lists as tuples. Raises `error`, with `where`, for a wrong name, type or bound.
    `beside`: other names that are allowed in the same place, for the message about an unknown one."""
    for name, value in options.items():
        if name not in RULES:
            message = option_answer(where, name) or unknown_key(
                where + ": %s", name, (*OPTION_NAMES, *beside)
            )
            raise error(message)
        if name in OF_ONE_CALL and not of_one_call:
            raise error(
                f"{where}: {name} belongs to one call. Set it there: .using({name}=...).enqueue(...)."
            )
        is_allowed, rule = RULES[name]
        if not is_allowed(value):
            raise error(f"{where}: {name} must be {rule}, got {described(value)}.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def storable(overrides: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the options of .using() that have no column, as JSON for the row; None when there are none."""
    stored = {name: overrides[name] for name in WITHOUT_COLUMN if name in overrides}
    for name, value in stored.items():
        if isinstance(value, Backoff):
            stored[name] = {"base": value.base.total_seconds(), "cap": value.cap.total_seconds()}
        elif name in POLICIES:
            stored[name] = stored_errors(value)
        elif callable(value):
            stored[name] = _dotted_path(name, value)
    return stored or None


def restored(stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Does the inverse of storable(), in the worker. Raises ImportError where the backoff cannot be imported. Error
    classes and `on_failure` stay dotted paths: those that do not exist any more do not stop the job."""
    options = dict(stored or {})
    backoff = options.get("backoff")
    if isinstance(backoff, dict):
        options["backoff"] = Backoff(**{name: timedelta(seconds=value) for name, value in backoff.items()})
    elif backoff is not None:
        options["backoff"] = import_string(backoff)
    return options | {name: tuple(options[name]) for name in POLICIES if name in options}


def _dotted_path(name: str, function: Any) -> str:
    path = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    with contextlib.suppress(ImportError):
        if import_string(path) is function:
            return path
    kind = "a Backoff or a function" if name == "backoff" else "a function"
    rule = f"is stored with the job, so it must be {kind} at module level"
    raise OptionError(f".using({name}=...) {rule}, got {function!r}.")


def stored_retention(failed_retention: timedelta | None) -> timedelta | None:
    """Returns the retention as the column has it: NULL for the default, which most jobs have."""
    if failed_retention is None:
        return LONGEST + timedelta(days=1)
    return None if failed_retention == FAILED_RETENTION else failed_retention


def failed_retention_of(stored: timedelta | None) -> timedelta | None:
    """Does the inverse of stored_retention()."""
    if stored is None:
        return FAILED_RETENTION
    return None if stored > LONGEST else stored
