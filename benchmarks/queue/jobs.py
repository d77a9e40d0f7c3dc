"""The tasks that the benchmark's workers run."""

from __future__ import annotations

import time

from pgonly_django import task


@task
def nothing(number: int) -> None:
    """Does nothing, so only the queue is measured."""


@task
def tell_start(sent_at: float) -> float:
    """Seconds from `sent_at` to now by CLOCK_MONOTONIC, which all processes of a machine share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC) - sent_at


@task
def last(seconds: float) -> None:
    time.sleep(seconds)
