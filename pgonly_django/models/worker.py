"""The row of a worker process. ARCHITECTURE.md, "When you change a column", names who else knows it."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from django.db import models
from django.db.models import Count, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from pgonly_django.compat import uuid7
from pgonly_django.conf import RELEASE_LENGTH, settings
from pgonly_django.database import notify
from pgonly_django.database.on_django import require_autocommit
from pgonly_django.models.job import ClockTimestamp, Job, State
from pgonly_django.models.job_rows import json_is
from pgonly_django.models.readable import JsonField, TimestampField, is_figure
from pgonly_django.tables import table

# A heartbeat comes each quarter of a lease. A worker is live while the last one is younger than this part of a lease.
SILENT_AFTER = 0.5
VERSION_LENGTH = 64
TOLD_APART = 10  # more workers are told by one NOTIFY that all of them hear


@cache
def own_version() -> str:
    """Returns the version of this package. It is not known where the package is used without being installed."""
    try:
        return version("pgonly-django")[:VERSION_LENGTH]
    except PackageNotFoundError:
        return "unknown"


def silent_after() -> timedelta:
    """Returns how long a live worker may be silent: 30 s by default. After a whole lease its jobs are rescued."""
    return timedelta(seconds=settings().lease_seconds * SILENT_AFTER)


class WorkerQuerySet(models.QuerySet["Worker"]):
    def live(self, within: timedelta | None = None) -> WorkerQuerySet:
        """Returns the workers that are alive: see Worker.is_live(). `within`: another limit than silent_after()."""
        has_beaten = Q(heartbeat_at__gt=ClockTimestamp() - (within or silent_after()))
        return self.filter(has_beaten | Q(sleeping_since__isnull=False), stopped_at=None)

    def claiming(self) -> WorkerQuerySet:
        """Returns the live workers that were not asked to end: they take jobs."""
        return self.live().filter(stop_requested_at=None, drain_requested_at=None)

    def serving(self, queue: str) -> WorkerQuerySet:
        """Returns the workers that take jobs of this queue: by its name, or of all queues."""
        return self.filter(Q(queues=[]) | Q(queues__contains=[queue]))

    def stoppable(self) -> WorkerQuerySet:
        """Returns the workers that stop() and drain() may ask: they have not stopped."""
        return self.filter(stopped_at=None)

    def stop(self) -> int:
        """Asks these workers to stop, as SIGTERM does: their jobs may save a checkpoint, and are given back within the
        grace period at no cost. Returns how many were asked. A supervisor starts a fresh process in the place of each,
        and so may a platform. One that sleeps stops when it wakes up."""
        return self._ask("stop()", stop_requested_at=ClockTimestamp())

    def drain(self) -> int:
        """Asks these workers to claim no more and to end after their jobs are finished; for the rest see stop()."""
        return self._ask("drain()", drain_requested_at=ClockTimestamp())

    def _ask(self, verb: str, **changes: ClockTimestamp) -> int:
        """Raises ManualCommitError where the workers could not be told after the commit."""
        self._for_write = True
        alias: str = self.db
        require_autocommit(alias, verb)
        ids = list(self.stoppable().values_list("pk", flat=True))
        count = self.model.objects.using(alias).stoppable().filter(pk__in=ids).update(**changes)
        for worker_id in ids if len(ids) <= TOLD_APART else [notify.ANY_WORKER]:
            notify.wake_after_commit(alias, notify.worker(worker_id))
        return count

    def with_jobs_held(self) -> WorkerQuerySet:
        """Adds `jobs_held` to each: the number of running jobs that are its own by their rows. `running` is the number
        of its last heartbeat, which stays when it dies and its jobs are rescued."""
        running = Job.objects.filter(state=State.RUNNING, worker_id=OuterRef("pk")).order_by()
        counted = running.values("worker_id").annotate(count=Count("pk")).values("count")
        return self.annotate(jobs_held=Coalesce(Subquery(counted), 0))

    def asleep(self) -> WorkerQuerySet:
        """Returns the workers that have no connection until they are woken (--sleep-after)."""
        return self.filter(sleeping_since__isnull=False, stopped_at=None)


class Worker(models.Model):
    """One `runworker` process. See is_live()."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=128)
    hostname = models.CharField(max_length=255)
    pid = models.IntegerField()
    queues = JsonField(of=[str], default=list, help_text=_("In serving order; empty: all."))
    threads = models.SmallIntegerField()
    running = models.IntegerField(default=0)
    started_at = TimestampField(db_default=ClockTimestamp())
    heartbeat_at = TimestampField(db_default=ClockTimestamp())
    stopped_at = TimestampField(null=True)
    sleeping_since = TimestampField(null=True, help_text=_("It has no connection since then."))
    version = models.CharField(max_length=VERSION_LENGTH, help_text=_("The version of pgonly-django."))
    python = models.CharField(max_length=32, blank=True, db_default="", help_text=_("The version of Python."))
    release = models.CharField(
        max_length=RELEASE_LENGTH,
        blank=True,
        db_default="",
        help_text=_('The release of the project: PGONLY["RELEASE"].'),
    )
    memory_mb = JsonField(
        of=[is_figure], null=True, help_text=_("In MB, once a minute, of the last hour; the newest last.")
    )
    stop_requested_at = TimestampField(
        null=True, help_text=_("It was asked to stop, and to give its jobs back.")
    )
    drain_requested_at = TimestampField(
        null=True, help_text=_("It was asked to end after its jobs are done.")
    )

    objects = WorkerQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_worker")
        verbose_name = _("worker")
        permissions = [("operate_worker", _("Can stop and drain workers"))]
        constraints = [
            models.CheckConstraint(condition=json_is("array", "queues"), name="pgonly_worker_queues")
        ]

    def __str__(self) -> str:
        return self.name

    def is_live(self, now: datetime) -> bool:
        """Returns whether its last heartbeat is younger than silent_after() at `now` (the database's), or it sleeps."""
        has_beaten = now - self.heartbeat_at < silent_after()
        return self.stopped_at is None and (has_beaten or self.sleeping_since is not None)
