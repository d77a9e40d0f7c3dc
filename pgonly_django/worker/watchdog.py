"""What is looked after while jobs run: interruptions that are not heeded, claims that nobody started, news."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping

from pgonly_django.context.run import Run
from pgonly_django.events import emit
from pgonly_django.exceptions import LeaseLost
from pgonly_django.models.job import LOG_LINES_KEPT, SUSPECT_FROM
from pgonly_django.queue.progress import Report

# A cancelled or timed-out job may leave by itself for this long; then the exception comes.
COOPERATIVE_SECONDS = 1.0
# A job that was claimed ahead and is still waiting for a slot goes back.
UNSTARTED_SECONDS = 1.0
REPORT_SECONDS = 0.5
# Held by the loop while reports are under way.
reporting = threading.Lock()


def unstarted_too_long(runs: Iterable[Run], now: float) -> list[Run]:
    """Claimed jobs that wait for a slot too long and are hereby taken out of the slots' hands."""
    late = now - UNSTARTED_SECONDS
    waiting = (run for run in runs if run.started_at is None and not run.in_thread)
    return [run for run in waiting if run.claimed_at < late and run.take()]


def enforce_deadlines(runs: Iterable[Run], now: float) -> None:
    for run in runs:
        deadline = run.deadline
        if deadline is not None and now >= deadline and not run.timed_out:
            run.timed_out = True


def interrupt_the_deaf(runs: Iterable[Run], now: float, grace_seconds: float) -> list[Run]:
    """Raise the interruption in jobs that have not left by themselves; return those that ignored even that."""
    ignored = []
    for run in runs:
        if run.started_at is None or run.abandoned or not _must_leave(run):
            continue
        if run.interrupted_at is None:
            run.interrupted_at = now
            _emit_interruption(run)
        waited = now - run.interrupted_at
        if waited >= COOPERATIVE_SECONDS:
            assert run.interruption is not None
            run.interrupter.interrupt(run.interruption)
        if waited >= COOPERATIVE_SECONDS + grace_seconds:
            ignored.append(run)
    return ignored


def _must_leave(run: Run) -> bool:
    """Not for a planned stop: that waits for the job until the grace is over, and then releases it."""
    return run.cancel_requested or run.timed_out or run.lease_lost


def _emit_interruption(run: Run) -> None:
    reason = run.interruption
    assert reason is not None
    level = logging.WARNING if reason is LeaseLost else logging.INFO
    message = f"{run.job.task} {run.job.id} has to end: {reason.__name__}."
    emit("worker.interrupting", message, level=level, job_id=run.job.id, task=run.job.task)


def news(runs: Iterable[Run]) -> list[Report]:
    """What the jobs have said since the last time, but for those whose own transaction will write it. Call it, and
    put_back(), while `reporting` is held."""
    return [
        _report(run) for run in runs if run.needs_report and not (run.keeps_snapshot or run.reports_itself)
    ]


def last_news(run: Run) -> list[Report]:
    """What one job has said that is not in its row, for its own transaction to write. A report that is under way is
    waited for: it may find the row locked by that very transaction, and come back."""
    if run.progress is not None or run.log_lines is not None or run.saved_something_new:
        with reporting:
            run.reports_itself = True
    return [_report(run)] if run.needs_report else []


def _report(run: Run) -> Report:
    run.needs_report = False  # before reading: what comes meanwhile is reported next time
    lines = []
    while run.log_lines:
        lines.append(run.log_lines.popleft())
    return Report(
        id=run.job.id,
        lease_epoch=run.job.lease_epoch,
        progress=run.progress,
        log_lines=json.dumps(lines) if lines else None,
        cleared=run.saved_something_new,
    )


def suspects(runs: Iterable[Run]) -> bool:
    """Whether a job under suspicion of killing its worker is among them, and not cleared in its row by now."""
    return any(run.job.crashes >= SUSPECT_FROM and not run.is_cleared for run in runs)


def put_back(runs: Mapping[str, Run], reports: Iterable[Report]) -> None:
    """The reports could not be written, the database being away or the row locked: let them be made again."""
    for report in reports:
        run = runs.get(report.id)
        if run is not None:
            if report.log_lines and run.log_lines is not None:
                room = LOG_LINES_KEPT - len(run.log_lines)
                run.log_lines.extendleft(reversed(json.loads(report.log_lines)[-room:] if room > 0 else []))
            run.needs_report = True


def emit_lost(run: Run) -> None:
    """Promise 2 at work: what the run left behind was not written."""
    message = f"{run.job.task} {run.job.id} belongs to another worker by now; its end was not written."
    emit("worker.finish_fenced", message, level=logging.WARNING, job_id=run.job.id, task=run.job.task)
