"""The tasks that the benchmark's workers run."""

from __future__ import annotations

import time

from pgonly_django import task


@task
def nothing(number: int) -> None:
    """No work: what is left is the queue's own."""


@task
def tell_start(sent_at: float) -> float:
    """Seconds from `sent_at` to here, on this machine's clock that all its processes share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC) - sent_at
