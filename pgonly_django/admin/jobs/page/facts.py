"""The facts of a job: short values, each with its label."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from pgonly_django.admin.formats import exact_time
from pgonly_django.admin.jobs.page.steps import cost_of
from pgonly_django.conf import FAILED_RETENTION, LONGEST
from pgonly_django.masking import MASK
from pgonly_django.models import Job, State
from pgonly_django.wording import duration

DIGEST_SHOWN = 8


def facts_of(job: Job, worker: str, *, hides_keys: bool) -> list[tuple[str, Any]]:
    """Label and value; facts without a value are left out. `hides_keys`: the arguments that keys were made of may not
    be seen."""
    facts: list[tuple[str, Any]] = [
        (_("Id"), job.pk),
        (_("Task"), job.task),
        (_("Queue"), job.queue),
        (_("Priority"), job.priority),
        (_("Backend"), job.backend),
        (_("Held by"), job.held_by),
        (_("Cost"), cost_of(job)),
        (_("Concurrency key"), _concurrency(job, hides_key=hides_keys)),
        (_("Slots"), job.slots if (job.slots or 1) > 1 else None),
        (_("Unique key"), _unique_key(job, hides_key=hides_keys)),
        (_("Its key counts"), _key_counts(job)),
        (_("Attempts"), f"{job.attempt} / {job.max_attempts}"),
        (_("Interruptions"), job.interruptions or None),
        (_("Crashes"), job.crashes or None),
        (_("Worker"), worker if job.state == State.RUNNING else None),
        (_("Lease"), _lease(job)),
        (_("Maximum run time"), job.max_runtime and duration(job.max_runtime)),
        (_("Kept after it finished"), _retention(job)),
        (_("Kept if it fails"), _failed_retention(job)),
        (_("Dead letter queue"), job.dead_letter_queue),
    ]
    return [(label, value) for label, value in facts if value not in (None, "")]


def _retention(job: Job) -> str | None:
    """What holds for it: of a job that has failed, or that may fail, see _failed_retention()."""
    if job.state != State.FAILED:
        return _time_kept(job.retention)
    return (
        _time_kept(job.retention and max(job.retention, FAILED_RETENTION))
        if job.failed_retention is None
        else None
    )


def _failed_retention(job: Job) -> str | None:
    if job.is_finished and (job.state != State.FAILED or job.failed_retention is None):
        return None
    return _time_kept(job.failed_retention or (job.retention and max(job.retention, FAILED_RETENTION)))


def _time_kept(time: timedelta | None) -> str:
    return duration(time) if time and time <= LONGEST else _("for ever")


def _concurrency(job: Job, *, hides_key: bool) -> str | None:
    if job.concurrency_key is None:
        return None
    return _("%(key)s, %(limit)d at a time") % {
        "key": MASK if hides_key else job.concurrency_key,
        "limit": job.concurrency_limit or 1,
    }


def _unique_key(job: Job, *, hides_key: bool) -> str | None:
    """Its hash shortened. Of a hidden one not even that: of a short secret it would tell the whole."""
    if hides_key and job.unique_key is not None:
        return MASK
    head, mark, digest = (job.unique_key or "").rpartition(" #")
    return f"{head} #{digest[:DIGEST_SHOWN]}…" if mark and len(digest) > DIGEST_SHOWN else job.unique_key


def _key_counts(job: Job) -> str | None:
    """For how long no second job may have its unique key."""
    if job.unique_key is None:
        return None
    words = {"waiting": _("until it is claimed"), "unfinished": _("until it has finished")}
    until = words.get(job.unique_while or "", _("as long as it is kept"))
    if job.unique_until is None:
        return until
    return _("%(until)s, but not after %(time)s") % {"until": until, "time": exact_time(job.unique_until)}


def _lease(job: Job) -> str | None:
    if job.state != State.RUNNING or job.lease_expires_at is None:
        return None
    left = job.lease_expires_at - timezone.now()
    if left.total_seconds() < 0:
        return _("expired %s ago") % duration(-left)
    return _("%s left") % duration(left)
