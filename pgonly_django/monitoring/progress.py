"""The progress of a job, its speed and its remaining time, from the columns of its row, without a statement; and that
of a batch, from the states of its members."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from pgonly_django.database.on_django import all_rows
from pgonly_django.models import Job, JobBatch, State
from pgonly_django.models.job import FINISHED, MEASURED_SINCE
from pgonly_django.tables import qualified
from pgonly_django.tasks.batches import Batch

LARGEST_FIGURE = 1e300  # so that done / total can be computed
LONGEST_LEFT = timedelta(days=3650)
# A speed that was measured for a shorter time says little.
MEASURED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The progress of a job. What cannot be known is None. `percent` is below 100 until all is done."""

    done: float | None
    total: float | None  # above zero
    percent: int | None
    per_minute: float | None  # of this run, while the job runs
    left: timedelta | None


def job_progress(job: Job, now: datetime | None = None) -> JobProgress:
    """Returns the progress. The speed is counted from where the present run began, up to its last report."""
    reported = job.progress if isinstance(job.progress, dict) else {}
    done, total = _figure(reported.get("done")), _figure(reported.get("total"))
    if done is None:
        return JobProgress(None, None, None, None, None)
    now = now or timezone.now()
    rate = _per_minute(job, reported.get(MEASURED_SINCE) or {}, done, now)
    if total is None or total <= 0:
        return JobProgress(done, None, None, rate, None)
    percent = int(100 * min(max(done, 0), total) / total)
    return JobProgress(done, total, percent, rate, _left(job, total - done, rate, now) if rate else None)


def _figure(value: Any) -> float | None:
    return value if value is not None and abs(value) < LARGEST_FIGURE else None


def _per_minute(job: Job, since: dict[str, Any], done: float, now: datetime) -> float | None:
    """Returns None where the job does not run, or not long enough, or has done nothing yet."""
    if job.state != State.RUNNING or job.attempted_at is None:
        return None
    first, first_seconds = since.get("done") or 0, since.get("seconds") or 0.0
    seconds = (_reported_at(job, now) - job.attempted_at).total_seconds() - first_seconds
    if seconds < MEASURED_SECONDS or done <= first:
        return None
    return 60 * (done - first) / seconds


def _left(job: Job, items: float, per_minute: float, now: datetime) -> timedelta | None:
    """Returns the time from now on, without the time since the last report."""
    minutes = max(items, 0) / per_minute
    if minutes > LONGEST_LEFT / timedelta(minutes=1):
        return None
    return max(timedelta(minutes=minutes) - (now - _reported_at(job, now)), timedelta(0))


def _reported_at(job: Job, now: datetime) -> datetime:
    """Returns the time of the last report of this run; before the first one, the present time."""
    at = job.reported_at
    return now if at is None or job.attempted_at is None or at < job.attempted_at else min(at, now)


# Index: pgonly_job_batch, all entries of the batch: 100,000 members take 60 ms.
COUNT_MEMBERS = qualified("SELECT state, count(*) FROM pgonly_job WHERE batch_id = %(id)s GROUP BY state")
# The answer counts for this many times as long as it took, for all that ask in this process: pages ask every second.
DUTY, KEPT_AT_MOST = 20, 1000
_kept: dict[tuple[str, str], tuple[BatchProgress, float]] = {}


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How many members a batch has, and in which states they are. `waiting`: scheduled, ready or held."""

    total: int
    waiting: int
    running: int
    succeeded: int
    failed: int
    cancelled: int

    @property
    def done(self) -> int:
        return self.succeeded + self.failed + self.cancelled

    @property
    def percent(self) -> int | None:
        """Below 100 until all are done; None without members."""
        return 100 * self.done // self.total if self.total else None


def progress_of(batch: Batch | JobBatch) -> BatchProgress:
    """Returns how far the batch is. It counts the members, and keeps what took long for a moment."""
    alias = batch.database if isinstance(batch, Batch) else batch._state.db  # noqa: SLF001 - Django's documented API
    key = str(alias), str(batch.id)
    kept, until = _kept.get(key, (None, 0.0))
    if kept is not None and time.monotonic() < until:
        return kept
    began = time.monotonic()
    counts: dict[str, int] = dict(all_rows(key[0], COUNT_MEMBERS, {"id": key[1]}))
    states = {state: counts.pop(state.value, 0) for state in (State.RUNNING, *FINISHED)}
    waiting = sum(counts.values())
    progress = BatchProgress(
        sum(states.values()) + waiting, waiting, states[State.RUNNING],
        states[State.SUCCEEDED], states[State.FAILED], states[State.CANCELLED],
    )  # fmt: skip
    if len(_kept) >= KEPT_AT_MOST:
        _kept.clear()
    now = time.monotonic()
    _kept[key] = progress, now + DUTY * (now - began)
    return progress
