"""How long a job waits between a failed attempt and the next one."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pgonly_django.conf import LONGEST
from pgonly_django.exceptions import OptionError

Delay = timedelta | float
# (attempt, error) or (exception, task_result): the names of its parameters say what it is given.
BackoffFunction = Callable[..., Delay | None]
# The first two are ours, the others those of Django's proposal (django/new-features#142).
BACKOFF_NAMES = ("attempt", "error", "exception", "task_result")
BACKOFF_RULE = "a callable with the parameters (attempt, error) or (exception, task_result), named so"
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with equal jitter, for `@task(backoff=Backoff(base=timedelta(seconds=5)))`. The delay is a
    random time between half and all of min(cap, base * 2 ** (attempt - 1)). The certain half makes the attempts outlast
    an outage, and the random half spreads the retries of jobs that failed together ("Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015). Raises OptionError unless 0 <= base <= cap."""

    # With 8 attempts the last one begins 15.9 to 31.8 minutes after the first one's end: 15 * (1 + 2 + ... + 64) s.
    base: timedelta = timedelta(seconds=15)
    cap: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        if not (isinstance(self.base, timedelta) and isinstance(self.cap, timedelta)):
            raise OptionError(f"Backoff needs timedeltas, got base={self.base!r}, cap={self.cap!r}.")
        if not timedelta(0) <= self.base <= self.cap <= LONGEST:
            bounds = f"0 <= base <= cap <= {LONGEST.days:,} days"
            raise OptionError(f"Backoff needs {bounds}, got base={self.base}, cap={self.cap}.")

    def __call__(self, attempt: int, error: BaseException) -> timedelta:  # noqa: ARG002 - the shape of a backoff
        doublings = min(attempt - 1, 40)
        window = min(self.cap.total_seconds(), self.base.total_seconds() * 2**doublings)
        return timedelta(seconds=random.uniform(window / 2, window))  # noqa: S311 - spreading load, not a secret


def backoff_parameters(backoff: Any) -> list[inspect.Parameter]:
    """Returns the parameters of `backoff` that take one of BACKOFF_NAMES, also with underscores before it. Raises
    OptionError where the names do not tell what it takes, as those of `*args`, and for anything that does not return a
    delay: a class, a coroutine function."""
    try:
        parameters = list(inspect.signature(backoff).parameters.values())
    except (TypeError, ValueError) as error:
        raise OptionError(f"backoff must be {BACKOFF_RULE}, got {backoff!r}.") from error
    taken = [p for p in parameters if p.kind not in VARIABLE and _value_name(p) in BACKOFF_NAMES]
    rest = [p for p in parameters if p not in taken]
    needed = [
        p for p in rest if p.kind is p.POSITIONAL_ONLY or (p.kind not in VARIABLE and p.default is p.empty)
    ]
    is_told = bool(taken) or not parameters
    if needed or not is_told or isinstance(backoff, type) or inspect.iscoroutinefunction(backoff):
        raise OptionError(f"backoff must be {BACKOFF_RULE}, got {described(backoff)}.")
    return taken


def described(function: Any) -> str:
    """Returns `name(parameters)` for a function, and the repr() of anything else."""
    return (
        f"{function.__qualname__}{inspect.signature(function)}"
        if inspect.isfunction(function)
        else repr(function)
    )


def delay_seconds(
    backoff: BackoffFunction, attempt: int, error: BaseException, task_result: Any = None
) -> float | None:
    """Returns the seconds until the next attempt after `attempt` failed with `error`, never negative. None, which a
    backoff that takes Django's parameters may return, means no further attempt. Raises OptionError when the user's
    function takes other parameters, or returns something else than a timedelta or seconds."""
    if isinstance(backoff, Backoff):
        return backoff(attempt, error).total_seconds()
    values = {"attempt": attempt, "error": error, "exception": error, "task_result": task_result}
    taken = backoff_parameters(backoff)
    args = [values[_value_name(p)] for p in taken if p.kind is p.POSITIONAL_ONLY]
    kwargs = {p.name: values[_value_name(p)] for p in taken if p.kind is not p.POSITIONAL_ONLY}
    delay: Any = backoff(*args, **kwargs)
    if delay is None and any(_value_name(p) in ("exception", "task_result") for p in taken):
        return None
    if isinstance(delay, timedelta):
        return max(delay.total_seconds(), 0.0)
    if isinstance(delay, int | float) and not isinstance(delay, bool) and not math.isnan(delay):
        return max(float(delay), 0.0)
    raise OptionError(f"backoff must return a timedelta or seconds, got {delay!r}.")


def _value_name(parameter: inspect.Parameter) -> str:
    return parameter.name.lstrip("_")
