"""The row of a worker process. Which other files know its columns: ARCHITECTURE.md, "When you change a column"."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils.translation import gettext_lazy as _

from pgonly_django.compat import uuid7
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.readable import ReadableJsonField, TimestampField
from pgonly_django.tables import table


class WorkerQuerySet(models.QuerySet["Worker"]):
    def live(self, within: timedelta) -> WorkerQuerySet:
        return self.filter(stopped_at=None, heartbeat_at__gt=ClockTimestamp() - within)


class Worker(models.Model):
    """One `runworker` process. It is alive while its heartbeat is younger than the lease."""

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

    objects = WorkerQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_worker")
        verbose_name = _("worker")

    def __str__(self) -> str:
        return self.name
