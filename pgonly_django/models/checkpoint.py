"""What a job finds again when it resumes: its checkpoint and the results of its steps.

Both have tables of their own: inside a two-hour atomic() a write to the job's row would lock it, and the heartbeat
could not renew the lease. Which other files know the columns: ARCHITECTURE.md, "When you change a column".
"""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from pgonly_django.models.budget import MONEY
from pgonly_django.models.job import ClockTimestamp, Job
from pgonly_django.tables import table

STEP_NAME_LENGTH = 255


class Checkpoint(models.Model):
    """Where a job stands: what it saved itself, and the positions of its loops."""

    job = models.OneToOneField(Job, models.CASCADE, primary_key=True, related_name="checkpoint")
    value = models.JSONField(null=True, help_text=_("What the job saved."))
    positions = models.JSONField(default=dict, help_text=_("How many items each iterate() has behind it."))
    saved_at = models.DateTimeField(db_default=ClockTimestamp())

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
    result = models.JSONField(null=True)
    finished_at = models.DateTimeField(db_default=ClockTimestamp())
    usd = models.DecimalField(**MONEY, null=True, help_text=_("What it has cost, in US dollars."))
    tokens_in = models.BigIntegerField(null=True)
    tokens_out = models.BigIntegerField(null=True)

    class Meta:
        db_table = table("pgonly_step")
        verbose_name = _("step")
        constraints = [models.UniqueConstraint("job", "name", name="pgonly_step_once")]

    def __str__(self) -> str:
        return self.name
