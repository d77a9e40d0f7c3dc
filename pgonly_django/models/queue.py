"""The row of a queue: its limits, whether it is paused, and the verbs of people. ARCHITECTURE.md, "When you change a
column", names the other files that know its columns."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from pgonly_django.conf import LONGEST_SECONDS
from pgonly_django.database import notify
from pgonly_django.database.on_django import require_autocommit
from pgonly_django.models.declared import Declared, DeclaredQuerySet
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.readable import NumberField, TimestampField
from pgonly_django.tables import qualified, table

# The queues whose jobs only a limited claim takes: queue/limited/claim.py. All others are left to the ordinary claims.
LIMITED_QUEUE = (
    "(paused_at IS NOT NULL OR max_running IS NOT NULL OR rate_count IS NOT NULL OR limiter IS NOT NULL)"
)
# For a condition on a column of queues. A list, which is read once in each statement: the planner could turn a join
# into another order of service. The table is small.
LIMITED_QUEUES = qualified(f"(ARRAY (SELECT name::text FROM pgonly_queue WHERE {LIMITED_QUEUE}))")


class QueueQuerySet(DeclaredQuerySet):
    def named(self, *names: str) -> QueueQuerySet:
        """Returns the rows of these queues. A queue that has none gets one, without any limit."""
        rows = [self.model(name=name) for name in sorted(set(names))]
        self.bulk_create(rows, ignore_conflicts=True)
        return self.filter(name__in=names)

    def pause(self) -> int:
        """Pauses these queues: no claim that begins after the commit takes a job of them, and running jobs continue.
        Returns how many were not paused before."""
        return self.filter(paused_at=None).update(paused_at=ClockTimestamp())

    def resume(self) -> int:
        """Ends a pause, and workers look for jobs at once. Returns how many were paused."""
        self._require_autocommit()
        return self._wake(self.exclude(paused_at=None).update(paused_at=None))

    def edit(self, **values: Any) -> int:
        """Sets columns for a person. No declaration overwrites them from now on. Returns how many rows. Workers look at
        once whether the new limits have room."""
        self._require_autocommit()
        return self._wake(super().edit(**values))

    def reset(self) -> int:
        """Undoes edit(): the rows say what the code declares. Returns how many rows changed. A pause stays. Workers
        look at once whether the limits have room."""
        self._require_autocommit()
        return self._wake(super().reset())

    def _require_autocommit(self) -> None:
        # As Django's own writing methods do: otherwise `db` is the router's for reading.
        self._for_write = True
        require_autocommit(self.db, "resume(), edit() and reset()")

    def _wake(self, count: int) -> int:
        """Wakes both claims: the queue may have no limit any more."""
        if count:
            notify.wake_after_commit(self.db, notify.limited(notify.ANY_QUEUE))
            notify.wake_after_commit(self.db, notify.ready(notify.ANY_QUEUE))
        return count


class Queue(Declared):
    """The limits of one queue across all workers. A queue without a row has none."""

    max_running = models.IntegerField(
        _("running at most"),
        null=True,
        blank=True,
        help_text=_("Maximum jobs at a time, across all workers."),
    )
    rate_count = models.IntegerField(
        _("starts"),
        null=True,
        blank=True,
        help_text=_("Maximum jobs that start per period ..."),
    )
    rate_seconds = NumberField(_("period"), null=True, blank=True, help_text=_("... of this many seconds."))
    limiter = models.CharField(  # noqa: DJ001 - NULL: none
        max_length=255, null=True, blank=True, help_text=_("While it cools down, no job of the queue starts.")
    )
    paused_at = TimestampField(null=True, blank=True)

    objects: ClassVar[Any] = QueueQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_queue")
        verbose_name = _("queue")
        permissions = [("operate_queue", _("Can pause, resume and change queues"))]
        constraints = [
            models.CheckConstraint(
                condition=Q(max_running__isnull=True) | Q(max_running__gte=1), name="pgonly_queue_max_running"
            ),
            models.CheckConstraint(
                condition=Q(rate_count__isnull=True, rate_seconds__isnull=True)
                | Q(
                    rate_count__isnull=False,
                    rate_seconds__isnull=False,
                    rate_count__gte=1,
                    rate_seconds__gt=0,
                    rate_seconds__lte=LONGEST_SECONDS,
                ),
                name="pgonly_queue_rate",
            ),
        ]


class QueueTokens(models.Model):
    """What is left of a queue's rate. It changes with each start, so it is apart from the row that claims read."""

    queue = models.CharField(max_length=255, primary_key=True)
    tokens = NumberField(help_text=_("Jobs that may start at once."))
    refilled_at = TimestampField()

    class Meta:
        db_table = table("pgonly_queue_tokens")
        verbose_name = _("tokens of a queue")
        verbose_name_plural = _("tokens of queues")

    def __str__(self) -> str:
        return str(self.queue)
