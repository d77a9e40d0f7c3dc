"""Batches: jobs with a common end. ARCHITECTURE.md, "When you change a column", names the other files that know the
columns. How many members a batch has is counted from their rows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from pgonly_django.compat import uuid7
from pgonly_django.models.readable import JsonField, TimestampField
from pgonly_django.tables import table


class JobBatch(models.Model):
    """A batch, whose members are the jobs with its id in `batch_id`. It is open until no member is unfinished."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    parent = models.ForeignKey(
        "pgonly_django.Job", models.CASCADE, null=True, related_name="batches", db_index=False,
        help_text=_("The job whose gather() waits for it."),
    )  # fmt: skip
    name = models.CharField(
        max_length=255, blank=True, help_text=_("That of the Batch() or of the gather().")
    )
    made_by = models.CharField(
        max_length=64, blank=True, db_default="", help_text=_('The job that has made it: "job:<id>".')
    )
    size = models.IntegerField(null=True, help_text=_("How many members the gather() has enqueued."))
    callbacks = JsonField(of=dict, default=dict, help_text=_("The jobs that its end enqueues, as rows."))
    sent = JsonField(of=dict, default=dict, help_text=_("The ids of those that it has enqueued."))
    closes = models.IntegerField(default=0, help_text=_("How often it has finished: a retry reopens it."))
    created_at = TimestampField(db_default=Now())
    cancelled_at = TimestampField(null=True)
    finished_at = TimestampField(null=True, help_text=_("Empty: it is open."))
    delete_after = TimestampField(null=True, help_text=_("When it goes, unless it has members."))

    class Meta:
        db_table = table("pgonly_batch")
        verbose_name = _("batch")
        verbose_name_plural = _("batches")
        indexes = [
            models.Index("id", name="pgonly_batch_open", condition=Q(finished_at__isnull=True)),
            models.Index(
                "delete_after", name="pgonly_batch_expired", condition=Q(delete_after__isnull=False)
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                "parent", "name", condition=Q(parent__isnull=False), name="pgonly_batch_once"
            )
        ]

    def __str__(self) -> str:
        return self.name or f"batch {self.id}"


def batches_of(jobs: models.QuerySet[Any], limit: int | None = None) -> list[Any]:
    """Returns the ids of the batches that these jobs are members of, `limit` at most. It locks no rows, also where the
    selection would: PostgreSQL refuses that with DISTINCT."""
    members = jobs.filter(batch_id__isnull=False).order_by()
    members.query.select_for_update = False
    return list(members.values_list("batch_id", flat=True).distinct()[:limit])


def lock(alias: str, ids: Collection[Any]) -> None:
    """Keeps these batches as they are until the transaction ends: no worker closes them in between. A transaction that
    writes members of batches that may be closed, or cancels, locks the batches first, before any job, or two could wait
    for each other."""
    if ids:
        rows = JobBatch.objects.using(alias).filter(pk__in=ids).order_by("pk")
        list(rows.select_for_update(no_key=True).values_list("pk"))


def reopen(alias: str, ids: Collection[Any]) -> None:
    """Opens batches again that this transaction has locked, and whose members become unfinished in it."""
    if ids:
        changes = dict.fromkeys(("finished_at", "cancelled_at", "delete_after"))
        JobBatch.objects.using(alias).filter(pk__in=ids).update(**changes)
