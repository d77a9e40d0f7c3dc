"""The one way for tests to wait: for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# OPTIONS of a cache whose test is not about time: a busy machine may take longer than the second of the default.
PATIENT = {"TIMEOUT_SECONDS": 20}


def wait_for(condition: Callable[[], T], seconds: float = 30.0, what: str = "the condition") -> T:
    """The first true value of `condition()`. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds} s")
