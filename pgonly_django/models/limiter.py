"""The limiters: what each allows, the holders of its slots, and the callers that wait for it. The statements are in
limits/. ARCHITECTURE.md, "When you change a column", names the other files that know the columns."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Greatest
from django.utils.translation import gettext_lazy as _

from pgonly_django.database import notify
from pgonly_django.models.declared import NAME_LENGTH, Declared, DeclaredQuerySet
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.models.readable import NumberField, TimestampField
from pgonly_django.tables import table

WHO_LENGTH = 255


class LimiterQuerySet(DeclaredQuerySet):
    def cool_down(self, duration: timedelta) -> int:
        """Lets no caller in for `duration` from now, or until the end of a longer cool-down. Returns how many
        limiters."""
        return self.update(blocked_until=Greatest("blocked_until", ClockTimestamp() + duration))

    def end_cool_down(self) -> int:
        """Lets callers in again, and wakes the workers whose queues are tied to these limiters. Returns how many."""
        self._for_write = True
        count = self.filter(blocked_until__gt=ClockTimestamp()).update(blocked_until=None)
        if count:
            notify.wake_after_commit(self.db, notify.ready(notify.ANY_QUEUE))
        return count


class Limiter(Declared):
    """Caps one kind of call across all processes: the number at a time, and the number per minute. An empty limit
    limits nothing."""

    concurrent = models.IntegerField(null=True, blank=True, help_text=_("Maximum calls at a time."))
    requests_per_minute = NumberField(null=True, blank=True)
    tokens_per_minute = NumberField(null=True, blank=True)
    # What was left in the two buckets at refilled_at. Below zero: more was used than reserved. NULL: full.
    requests = NumberField(null=True, editable=False)
    tokens = NumberField(null=True, editable=False)
    refilled_at = TimestampField(null=True, editable=False)
    blocked_until = TimestampField(
        null=True, editable=False, help_text=_("No caller gets in before this time.")
    )

    objects: ClassVar[Any] = LimiterQuerySet.as_manager()

    class Meta:
        db_table = table("pgonly_limiter")
        verbose_name = _("limiter")
        permissions = [("operate_limiter", _("Can cool down limiters and change their limits"))]
        constraints = [
            models.CheckConstraint(
                condition=Q(concurrent__isnull=True) | Q(concurrent__gte=1), name="pgonly_limiter_concurrent"
            ),
            models.CheckConstraint(
                condition=Q(requests_per_minute__isnull=True) | Q(requests_per_minute__gt=0),
                name="pgonly_limiter_requests",
            ),
            models.CheckConstraint(
                condition=Q(tokens_per_minute__isnull=True) | Q(tokens_per_minute__gt=0),
                name="pgonly_limiter_tokens",
            ),
        ]


class LimiterSlot(models.Model):
    """One of the places of a limiter. It is free without a holder, or when its holder's lease is over."""

    id = models.BigAutoField(primary_key=True)
    limiter = models.CharField(max_length=NAME_LENGTH)
    number = models.IntegerField()  # from 1 on; those above the limiter's `concurrent` are not used
    holder = models.UUIDField(null=True)
    who = models.CharField(max_length=WHO_LENGTH, blank=True)
    taken_at = TimestampField(null=True)
    expires_at = TimestampField(null=True)

    class Meta:
        db_table = table("pgonly_limiter_slot")
        verbose_name = _("limiter slot")
        constraints = [models.UniqueConstraint("limiter", "number", name="pgonly_limiter_slot_number")]
        indexes = [
            models.Index("holder", name="pgonly_limiter_slot_holder", condition=Q(holder__isnull=False))
        ]

    def __str__(self) -> str:
        return f"{self.limiter} {self.number}"


class LimiterWaiter(models.Model):
    """A caller that waits for a limiter; the lowest ticket is first. A caller that is not renewed is dead, and delays
    no other."""

    ticket = models.BigAutoField(primary_key=True)
    id = models.UUIDField(unique=True)
    limiter = models.CharField(max_length=NAME_LENGTH)
    who = models.CharField(max_length=WHO_LENGTH, blank=True)
    tokens = models.BigIntegerField()
    since = TimestampField(db_default=ClockTimestamp())
    expires_at = TimestampField()

    class Meta:
        db_table = table("pgonly_limiter_waiter")
        verbose_name = _("limiter waiter")
        indexes = [models.Index("limiter", "ticket", name="pgonly_limiter_waiter_next")]

    def __str__(self) -> str:
        return f"{self.limiter} {self.ticket}"
