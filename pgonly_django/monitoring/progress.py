"""The progress of a job, its speed and its remaining time, from the columns of its row, without a statement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from pgonly_django.models import Job, State
from pgonly_django.models.job import MEASURED_SINCE

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
