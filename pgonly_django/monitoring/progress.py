"""How far a job is, how fast it goes, and how long it still takes; from the columns of its row, without a statement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeGuard

from django.utils import timezone

from pgonly_django.models import Job, State
from pgonly_django.models.job import MEASURED_SINCE

LARGEST_FIGURE = 1e300  # so that done / total can be computed
LONGEST_LEFT = timedelta(days=3650)
# A speed that was measured for a shorter time says little.
MEASURED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class JobProgress:
    """What cannot be known is None. `percent` is below 100 until all is done."""

    done: float | None
    total: float | None  # above zero
    percent: int | None
    per_minute: float | None  # of this run, while the job runs
    left: timedelta | None


def job_progress(job: Job, now: datetime | None = None) -> JobProgress:
    """The speed is counted from where the present run began, up to its last report."""
    reported = job.progress if isinstance(job.progress, dict) else {}
    done = _figure(reported.get("done"))
    total = None if done is None else _figure(reported.get("total"))
    if total is not None and total <= 0:
        total = None
    now = now or timezone.now()
    rate = None if done is None else _per_minute(job, reported.get(MEASURED_SINCE), done, now)
    left = None
    if done is not None and total is not None and rate is not None:
        left = _left(job, total - done, rate, now)
    return JobProgress(done, total, _percent(done, total), rate, left)


def _figure(value: Any) -> float | None:
    return value if _is_figure(value) else None


def _is_figure(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < LARGEST_FIGURE


def _percent(done: float | None, total: float | None) -> int | None:
    if done is None or total is None:
        return None
    return int(100 * min(max(done, 0), total) / total)


def _per_minute(job: Job, since: Any, done: float, now: datetime) -> float | None:
    """None where the job does not run, or not long enough, or has done nothing yet."""
    if job.state != State.RUNNING or job.attempted_at is None:
        return None
    since = since if isinstance(since, dict) else {}
    first, first_seconds = _figure(since.get("done")) or 0, _figure(since.get("seconds")) or 0.0
    seconds = (_reported_at(job, now) - job.attempted_at).total_seconds() - first_seconds
    if seconds < MEASURED_SECONDS or done <= first:
        return None
    return 60 * (done - first) / seconds or None  # too slow for a float


def _left(job: Job, items: float, per_minute: float, now: datetime) -> timedelta | None:
    """From now on: the time since the last report is over already."""
    minutes = max(items, 0) / per_minute
    if minutes > LONGEST_LEFT / timedelta(minutes=1):
        return None
    return max(timedelta(minutes=minutes) - (now - _reported_at(job, now)), timedelta(0))


def _reported_at(job: Job, now: datetime) -> datetime:
    """Of this run. Workers of the version before do not say when: then the present moment."""
    at = job.reported_at
    return now if at is None or job.attempted_at is None or at < job.attempted_at else min(at, now)
