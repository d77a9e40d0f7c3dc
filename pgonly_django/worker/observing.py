"""The hooks of instruments (OpenTelemetry, Sentry) around a run and at its end. Without instruments, the worker calls
nothing here except is_observed()."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from pgonly_django import instruments
from pgonly_django.context.run import Run
from pgonly_django.instruments import JobRun, around
from pgonly_django.worker.ending import EndedRun, how_it_ended

LOST = "lost"


def is_observed() -> bool:
    return bool(instruments.runs.functions or instruments.steps.functions)


@contextmanager
def observed(run: Run) -> Iterator[Callable[[EndedRun], EndedRun]]:
    """Stands around code that ends `run` and raises nothing. Give its end to the function that this yields."""
    run.started_at = time.monotonic()  # an instrument that hangs counts against max_runtime
    seen = run.seen = JobRun(run.job, run.worker)
    with around(instruments.runs, seen, shields=True):
        yield partial(note_end, seen)


def note_end(seen: JobRun, ended: EndedRun) -> EndedRun:
    finish = ended.finish
    seen.error = ended.error
    seen.outcome = LOST if finish is None else how_it_ended(finish).value
    seen.state = "" if finish is None else finish.state.value
    return ended
