"""The progress of a job, its speed and its remaining time, from the columns of its row, without a statement; and that
of a batch, from the states of its members."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from pgonly_django.database.on_django import all_rows, in_time
from pgonly_django.models import Job, JobBatch, State
from pgonly_django.models.job import FINISHED, MEASURED_SINCE
from pgonly_django.tables import qualified
from pgonly_django.tasks.batches import Batch

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
    reported = job.progress or {}
    done, total = reported.get("done"), reported.get("total")
    if done is None:
        return JobProgress(None, None, None, None, None)
    now = now or timezone.now()
    rate = _per_minute(job, reported.get(MEASURED_SINCE) or {}, done, now)
    if total is None or total <= 0:
        return JobProgress(done, None, None, rate, None)
    percent = int(100 * min(max(done, 0), total) / total)
    return JobProgress(done, total, percent, rate, _left(job, total - done, rate, now) if rate else None)


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


# Index: pgonly_job_batch, all entries of each batch: 100,000 members take 60 ms.
COUNT_MEMBERS = qualified("""
SELECT batch_id::text, state, count(*) FROM pgonly_job WHERE batch_id = ANY (%(ids)s::uuid[]) GROUP BY batch_id, state
""")
# The answer counts for this many times as long as it took, for all that ask in this process: pages ask every second.
DUTY, KEPT_AT_MOST = 20, 1000
PAGE_LIMIT = timedelta(milliseconds=250)
_kept: dict[tuple[str, str], tuple[BatchProgress | None, float]] = {}  # None: it took too long for a page


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

    @property
    def words(self) -> str:
        """As in "1,204 of 3,000 ended, 3 failed"."""
        words = [_("%(done)s of %(total)s ended") % {"done": f"{self.done:,}", "total": f"{self.total:,}"}]
        words += [_("%s failed") % f"{self.failed:,}"] if self.failed else []
        words += [_("%s cancelled") % f"{self.cancelled:,}"] if self.cancelled else []
        return ", ".join(words)


def progress_of(batch: Batch | JobBatch) -> BatchProgress:
    """Returns how far the batch is. It counts the members, and keeps what took long for a moment."""
    alias = batch.database if isinstance(batch, Batch) else batch._state.db  # noqa: SLF001 - Django's documented API
    progress = _progress_of(str(alias), {str(batch.id)}, None)[str(batch.id)]
    assert progress is not None
    return progress


def progress_for_page(alias: str, ids: Collection[str]) -> dict[str, BatchProgress]:
    """Returns how far these batches are, by their ids: none that has no members, and none of those whose members take
    longer than PAGE_LIMIT to count."""
    found = _progress_of(alias, set(ids), PAGE_LIMIT) if ids else {}
    return {each: progress for each, progress in found.items() if progress is not None and progress.total}


def _progress_of(alias: str, ids: set[str], limit: timedelta | None) -> dict[str, BatchProgress | None]:
    began = time.monotonic()
    kept = {each: _kept.get((alias, each), (None, 0.0)) for each in ids}
    found = {each: progress for each, (progress, until) in kept.items() if began < until}
    if missing := {each for each in ids if each not in found or (limit is None and found[each] is None)}:
        count = partial(_count, alias, missing)
        counted = count() if limit is None else in_time(alias, limit, count) or dict.fromkeys(missing)
        found |= counted
        until = (now := time.monotonic()) + DUTY * (now - began)
        if len(_kept) >= KEPT_AT_MOST:
            _kept.clear()
        _kept.update({(alias, each): (progress, until) for each, progress in counted.items()})
    return found


def _count(alias: str, ids: Collection[str]) -> dict[str, BatchProgress | None]:
    counts: dict[str, Counter[str]] = {each: Counter() for each in ids}
    for batch_id, state, count in all_rows(alias, COUNT_MEMBERS, {"ids": list(ids)}):
        counts[batch_id][state] = int(count)
    return {each: _progress(of_state) for each, of_state in counts.items()}


def _progress(of_state: Counter[str]) -> BatchProgress:
    running, succeeded, failed, cancelled = (of_state[state.value] for state in (State.RUNNING, *FINISHED))
    total = of_state.total()
    return BatchProgress(
        total, total - running - succeeded - failed - cancelled, running, succeeded, failed, cancelled
    )
