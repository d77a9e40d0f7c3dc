from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pgonly_django.context.context import JobContext
from pgonly_django.context.memory import Memory
from pgonly_django.context.run import Run
from pgonly_django.queue import checkpoints
from tests.queue.rows import claim, claimer, make


@pytest.fixture
def make_context(server) -> Callable[..., JobContext]:
    """The context of a job that was just claimed, and had saved the JSON text `saved` before."""

    def make_context(saved: str = "null", **columns: object) -> JobContext:
        make(**columns)
        (job,) = claim(server, claimer())
        run = Run(job, "default", claimed_at=time.monotonic(), lease_until=time.monotonic() + 60)
        return JobContext(None, run, Memory(run, checkpoints.Saved(saved), is_atomic=False))

    return make_context


@pytest.fixture
def context(make_context) -> JobContext:
    return make_context()
