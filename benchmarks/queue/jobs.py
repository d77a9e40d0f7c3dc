"""The tasks that the benchmark's workers run."""

from __future__ import annotations

import time

from pgonly_django import JobContext, task


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


@task
def tell_start_of_next(sent_at: float) -> None:
    tell_start.enqueue(sent_at)


@task(takes_context=True)
def tell_answer(context: JobContext, number: int) -> float:
    """Seconds from the payload of its event to now."""
    sent_at: float = context.wait_for_event(f"answer {number}")
    return time.clock_gettime(time.CLOCK_MONOTONIC) - sent_at
