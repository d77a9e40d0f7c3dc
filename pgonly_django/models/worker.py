"""The row of a worker process. Which other files know its columns: ARCHITECTURE.md, "When you change a column"."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pgonly_django.compat import uuid7
from pgonly_django.conf import IDLE_BEAT_SECONDS, settings
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.readable import ReadableJsonField, TimestampField
from pgonly_django.tables import table

IDLE_BEAT = timedelta(seconds=IDLE_BEAT_SECONDS)


class WorkerQuerySet(models.QuerySet["Worker"]):
    def live(self, lease_for: timedelta | None = None) -> WorkerQuerySet:
        """Those that say that they live: see Worker.is_live(). Without `lease_for`, as PGONLY["LEASE_SECONDS"] says."""
        lease_for = lease_for or timedelta(seconds=settings().lease_seconds)
        is_busy = Q(heartbeat_at__gt=ClockTimestamp() - lease_for)
        is_idle = Q(running=0, heartbeat_at__gt=ClockTimestamp() - IDLE_BEAT - lease_for)
        return self.filter(is_busy | is_idle | Q(sleeping_since__isnull=False), stopped_at=None)

    def asleep(self) -> WorkerQuerySet:
        """Those that have no connection, until they are woken (--sleep-after)."""
        return self.filter(sleeping_since__isnull=False, stopped_at=None)


class Worker(models.Model):
    """One `runworker` process. See is_live()."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=128)
    hostname = models.CharField(max_length=255)
    pid = models.IntegerField()
    queues = ReadableJsonField(default=list, help_text=_("In serving order; empty: all."))
    threads = models.SmallIntegerField()
    running = models.IntegerField(default=0)
    started_at = TimestampField(db_default=ClockTimestamp())
    heartbeat_at = TimestampField(db_default=ClockTimestamp())
    stopped_at = TimestampField(null=True)
    sleeping_since = TimestampField(null=True, help_text=_("It has no connection since then."))
    tells_claims = models.BooleanField(
        null=True,
        help_text=_("It tells others when it begins to hold jobs; empty: of a version that does not."),
    )

    version = models.CharField(  # noqa: DJ001 - NULL is what the versions before leave
        max_length=64, null=True, help_text=_("Of pgonly-django; empty: of one that does not say.")
    )
    stop_requested_at = TimestampField(
        null=True, help_text=_("It was asked to stop, and to give its jobs back.")
    )
    drain_requested_at = TimestampField(null=True, help_text=_("It was asked to end once its jobs are done."))

    objects = WorkerQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_worker")
        verbose_name = _("worker")
        permissions = [("operate_worker", _("Can stop and drain workers"))]

    def __str__(self) -> str:
        return self.name

    def is_live(self, now: datetime) -> bool:
        """Whether its heartbeat is younger than a lease. One that held no job at that heartbeat may be silent for
        IDLE_BEAT_SECONDS more, and one that sleeps for as long as it sleeps. `now` is the database's clock."""
        lease_for = timedelta(seconds=settings().lease_seconds)
        silent_for: timedelta = now - self.heartbeat_at
        if self.sleeping_since is not None:
            return self.stopped_at is None
        return self.stopped_at is None and silent_for < (lease_for if self.running else IDLE_BEAT + lease_for)
