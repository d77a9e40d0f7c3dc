"""How long a failed attempt waits for the next one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pgonly_django.conf import LONGEST
from pgonly_django.exceptions import OptionError

Delay = timedelta | float
BackoffFunction = Callable[[int, BaseException], Delay]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: uniform between 0 and min(cap, base * 2 ** (attempt - 1)). Full jitter
    ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015) spreads the retries of jobs that failed together
    over the whole window."""

    base: timedelta = timedelta(seconds=10)
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
        return timedelta(seconds=random.uniform(0, window))  # noqa: S311 - spreading load, not a secret


def delay_seconds(backoff: BackoffFunction, attempt: int, error: BaseException) -> float:
    """Seconds until the next attempt after `attempt` failed with `error`; never negative. Raises OptionError when the
    user's function returns something else than a timedelta or seconds."""
    delay: Any = backoff(attempt, error)
    if isinstance(delay, timedelta):
        return max(delay.total_seconds(), 0.0)
    if isinstance(delay, int | float) and not isinstance(delay, bool) and not math.isnan(delay):
        return max(float(delay), 0.0)
    raise OptionError(f"backoff must return a timedelta or seconds, got {delay!r}.")
