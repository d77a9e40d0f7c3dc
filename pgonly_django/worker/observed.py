"""What instruments put around a run, and what they are told of its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from pgonly_django import instruments
from pgonly_django.context.run import Run
from pgonly_django.instruments import Around, JobRun
from pgonly_django.models import Job
from pgonly_django.worker.outcomes import Ended, how_it_ended

LOST, CRASHED = "lost", "crashed"


def is_observed() -> bool:
    return bool(instruments.runs.functions or instruments.steps.functions)


def observe(run: Run, call: Callable[[Run], Ended]) -> Ended:
    """`call(run)`, which raises nothing, with what they put around it."""
    seen = _begin(run)
    with Around(instruments.runs, seen, shields=True):
        ended = call(run)
        _note(seen, ended)
    return ended


async def aobserve(run: Run, call: Callable[[Run], Awaitable[Ended]]) -> Ended:
    """See observe()."""
    seen = _begin(run)
    with Around(instruments.runs, seen, shields=True):
        ended = await call(run)
        _note(seen, ended)
    return ended


def tell_failed(ended: Ended) -> None:
    """Of a run whose job has failed, once that is written."""
    seen: JobRun = ended.run.seen or JobRun(ended.run.job, ended.run.worker)
    _note(seen, ended)
    instruments.call_all(instruments.failures, seen)


def tell_crashed(job: Job) -> None:
    """Of a job whose worker has died too often."""
    seen = JobRun(job, worker="", outcome=CRASHED, state=str(job.state))
    instruments.call_all(instruments.failures, seen)


def tell_stop(seconds: float) -> None:
    """Returns after so many seconds at the latest, also where an instrument hangs."""
    if not instruments.stops.functions:
        return
    thread = threading.Thread(
        target=instruments.call_all, args=(instruments.stops, seconds), name="pgonly-instruments", daemon=True
    )
    with suppress(RuntimeError):  # the system starts no more threads
        thread.start()
        thread.join(seconds)


def _begin(run: Run) -> JobRun:
    run.started_at = time.monotonic()  # an instrument that hangs counts against max_runtime
    seen = run.seen = JobRun(run.job, run.worker)
    return seen


def _note(seen: JobRun, ended: Ended) -> None:
    finish: Any = ended.finish
    seen.error = ended.error
    seen.outcome = LOST if finish is None else how_it_ended(finish).value
    seen.state = "" if finish is None else finish.state.value
