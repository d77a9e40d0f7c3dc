"""The number of runs of each task that ended in each minute and hour, and how long they waited and took. Workers write
them, see queue/stats.py; they stay when the jobs themselves are pruned."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta

from django.db import models
from django.utils.translation import gettext_lazy as _

from pgonly_django.models.cache_entry import TextArrayField
from pgonly_django.models.readable import TimestampField
from pgonly_django.tables import table

# The buckets of a histogram. Bucket i counts durations of at most BOUNDS[i] seconds, which is 1 ms * 2 ** (i / 2); the
# last one also those that are longer, of more than a month.
BUCKETS = 64
BOUNDS = tuple(0.001 * 2 ** (number / 2) for number in range(BUCKETS))
STATS_KEPT = {"minute": timedelta(hours=3), "hour": timedelta(days=35)}


@dataclass(slots=True)
class Counts:
    """The columns that count runs, in the order of the bars in the admin, from the bottom up."""

    failed: int = 0
    crashed: int = 0
    retried: int = 0
    interrupted: int = 0
    succeeded: int = 0


NUMBERS = tuple(each.name for each in fields(Counts))
TIMED = ("succeeded", "failed", "retried")  # the runs that say how long a task takes


class Granularity(models.TextChoices):
    """The length of time that a row counts. Each run counts in one row of each length."""

    MINUTE = "minute", _("Minute")
    HOUR = "hour", _("Hour")


class HistogramField(TextArrayField):
    """A list of int, the counts of the buckets; those that are missing at its end are 0."""

    column_type = "integer[]"


class JobStats(models.Model):
    """The runs of one task from one queue that ended in one minute, or hour. If a project has thousands of names, the
    row with an empty task has those beyond the limit, and the one with an empty queue too has those of all queues."""

    granularity = models.CharField(max_length=8, choices=Granularity)
    starts_at = TimestampField()
    queue = models.CharField(max_length=64)
    task = models.CharField(max_length=255)
    succeeded = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0, help_text=_("The job has ended as failed."))
    retried = models.BigIntegerField(default=0, help_text=_("The attempt failed; the job continues."))
    interrupted = models.BigIntegerField(default=0, help_text=_("Released by a planned stop."))
    crashed = models.BigIntegerField(default=0, help_text=_("Its worker died."))
    waiting_times = HistogramField(default=list, help_text=_("From ready to the start of the run."))
    run_times = HistogramField(default=list)

    class Meta:
        db_table = table("pgonly_job_stats")
        verbose_name = _("job statistics")
        verbose_name_plural = _("job statistics")
        constraints = [
            # Also finds the rows of a period, and those that are to be pruned.
            models.UniqueConstraint(
                fields=["granularity", "starts_at", "queue", "task"], name="pgonly_job_stats_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.task} {self.granularity} {self.starts_at:%Y-%m-%d %H:%M}"
