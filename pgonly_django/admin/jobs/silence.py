"""A running job whose worker is silent: for how long, and what follows, as its page says it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import router
from django.utils import timezone
from django.utils.translation import gettext as _

from pgonly_django.admin.base import Links
from pgonly_django.admin.formats import whole
from pgonly_django.conf import settings
from pgonly_django.models import Worker
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.monitoring.workers import served_queues, silences


def worker_of(job: Any) -> tuple[str, timedelta | None]:
    """Returns the name of the worker that has the job, and for how long it has been silent; None where it is not."""
    if job.worker_id is None:
        return "", None
    alias = router.db_for_read(Worker, instance=job)
    found = Worker.objects.using(alias).filter(pk=job.worker_id).values_list("name", ClockTimestamp()).first()
    name, job.now = found or (_("unknown (%s)") % job.worker_id, timezone.now())
    return name, silences(alias, [job]).get(job.pk)


def silence_of(job: Any, links: Links) -> dict[str, str]:
    """Returns the words of the banner, with the address of the worker's page."""
    left = timedelta(seconds=settings().lease_seconds) - job.silent_for
    if not served_queues(router.db_for_read(Worker)).has(job.queue):
        follows = _("No worker is live that could take the job over: start one")
    elif left > timedelta(0):
        follows = _("Another worker takes the job over within about %s") % whole(left)
    else:
        follows = _("Another worker is about to take the job over")
    return {
        "opening": _("Silent for %s:") % whole(job.silent_for),
        "worker": job.worker_name,
        "url": links.to_page(Worker, str(job.worker_id)),
        "follows": follows,
    }
