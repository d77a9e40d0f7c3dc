"""What a job finds when it resumes: its checkpoint, the results of its steps, and what it has emitted. These have
separate tables: inside a two-hour atomic() a write to the job's row would lock it, and the heartbeat could not renew
the lease. ARCHITECTURE.md, "When you change a column", names the other files that know the columns.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from pgonly_django.models.budget import MONEY
from pgonly_django.models.job import ClockTimestamp, Job
from pgonly_django.models.readable import AmountField, JsonField, TimestampField
from pgonly_django.tables import table

STEP_NAME_LENGTH = 255
PART_LENGTH = 264  # "step ", and the longest name of a step


def are_positions(value: Any) -> bool:
    """Returns whether these are numbers of items, or lists that begin with one, by the names of loops."""
    return isinstance(value, dict) and all(
        isinstance(at[0] if at and isinstance(at, list) else at, int) for at in value.values()
    )


class Checkpoint(models.Model):
    """The position of a job: what it saved itself, and the positions of its loops."""

    job = models.OneToOneField(Job, models.CASCADE, primary_key=True, related_name="checkpoint")
    value = JsonField(null=True, help_text=_("What the job saved."))
    positions = JsonField(
        of=are_positions, default=dict, help_text=_("Items that each iterate() has finished.")
    )
    saved_at = TimestampField(db_default=ClockTimestamp())

    class Meta:
        db_table = table("pgonly_checkpoint")
        verbose_name = _("checkpoint")

    def __str__(self) -> str:
        return f"checkpoint of {self.job_id}"


class Step(models.Model):
    """The durable result of one named step: written once, read by every later run of the job."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, models.CASCADE, related_name="steps", db_index=False)
    name = models.CharField(max_length=STEP_NAME_LENGTH)
    result = JsonField(null=True)
    started_at = TimestampField(null=True, help_text=_("When the call began."))
    finished_at = TimestampField(db_default=ClockTimestamp())
    usd = AmountField(**MONEY, null=True, help_text=_("What it has cost, in US dollars."))
    tokens_in = models.BigIntegerField(null=True)
    tokens_out = models.BigIntegerField(null=True)

    class Meta:
        db_table = table("pgonly_step")
        verbose_name = _("step")
        constraints = [models.UniqueConstraint("job", "name", name="pgonly_step_once")]

    def __str__(self) -> str:
        return self.name


class JobOutput(models.Model):
    """One of many rows of a job's output: this part of the output is cut to `start` characters, and `text` is
    appended."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, models.CASCADE, related_name="outputs", db_index=False)
    part = models.CharField(
        max_length=PART_LENGTH,
        blank=True,
        help_text=_("Empty: what readers see. Otherwise a step or loop whose text later runs repeat."),
    )
    place = models.BigIntegerField(help_text=_("The order of the rows: lease_epoch * 2^32 and a number."))
    start = models.IntegerField(help_text=_("Characters of the earlier text that stay."))
    text = models.TextField()

    class Meta:
        db_table = table("pgonly_job_output")
        verbose_name = _("output of a job")
        verbose_name_plural = _("outputs of jobs")
        constraints = [models.UniqueConstraint("job", "part", "place", name="pgonly_job_output_once")]

    def __str__(self) -> str:
        return f"output of {self.job_id}"
