"""A job in words for the users of a site: no name of a task, no exception, no traceback."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from pgonly_django.conf import settings
from pgonly_django.models import Job, State
from pgonly_django.models.worker import silent_after
from pgonly_django.monitoring.progress import JobProgress
from pgonly_django.wording import duration

SECOND = timedelta(seconds=1)
SLOW_PER_MINUTE = 10  # below that with one digit behind the point


class Surroundings(NamedTuple):
    """What keeps jobs waiting, and who has gone silent."""

    served: set[str] | None  # None: some worker serves every queue
    paused: set[str]
    silent: set[object]  # ids of workers


def label(job: Job, around: Surroundings, now: datetime) -> str:
    match job.state:
        case State.READY:
            return _waiting(job, around)
        case State.SCHEDULED:
            return _scheduled(job, around, now)
        case State.RUNNING:
            return _running(job, around, now)
        case State.HELD:
            return _("On hold")
        case State.SUCCEEDED:
            return _("Done")
        case State.CANCELLED:
            return _("Cancelled")
    return _("Failed")


def _waiting(job: Job, around: Surroundings) -> str:
    if around.served is not None and job.queue not in around.served:
        return _("Waiting: no live worker serves %(queue)s") % {"queue": job.queue}
    if job.queue in around.paused:
        return _("Waiting: %(queue)s is paused") % {"queue": job.queue}
    return _("Waiting for a worker")


def _scheduled(job: Job, around: Surroundings, now: datetime) -> str:
    if job.run_at is None or job.run_at <= now:
        return _waiting(job, around)
    at = _full_minute(job.run_at)
    at = timezone.localtime(at) if timezone.is_aware(at) else at
    words = date_format(at, "TIME_FORMAT" if job.run_at - now < timedelta(hours=12) else "DATETIME_FORMAT")
    if job.attempt:
        return _("Something went wrong. It is tried again at %(time)s") % {"time": words}
    return _("Begins at %(time)s") % {"time": words}


def _full_minute(moment: datetime) -> datetime:
    """The next one, since the words have no seconds: what begins at 11:22:50 has not begun at 11:22."""
    try:
        later = moment + timedelta(minutes=1, microseconds=-1)
    except OverflowError:
        return moment
    return later.replace(second=0, microsecond=0)


def _running(job: Job, around: Surroundings, now: datetime) -> str:
    if job.cancel_requested_at is not None:
        return _("Stopping")
    silent_for = silent_seconds(job, now)
    if job.worker_id in around.silent and silent_for:
        return _("Its worker has been silent for %(seconds)d s. Waiting for takeover") % {
            "seconds": silent_for
        }
    return _("Running")


def silent_seconds(job: Job, now: datetime) -> float | None:
    """For how long its lease has not been renewed, where that is longer than it should be."""
    if job.state != State.RUNNING or job.lease_expires_at is None:
        return None
    silent = settings().lease_seconds - (job.lease_expires_at - now).total_seconds()
    return silent if silent >= silent_after().total_seconds() else None


def pace(progress: JobProgress) -> str:
    """How fast it goes and how long it still takes, as far as that is known."""
    parts = []
    if progress.per_minute is not None:
        digits = 0 if progress.per_minute >= SLOW_PER_MINUTE else 1
        parts.append(_("%(count)s per minute") % {"count": f"{progress.per_minute:,.{digits}f}"})
    if progress.left is not None:
        parts.append(_("%(time)s left") % {"time": duration(progress.left // SECOND)})
    return ", ".join(parts)
