"""The text that a job has emitted, in the parts in which it was written. SQL and meaning: queue/output.py."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from pgonly_django.models.job import Job
from pgonly_django.tables import table

PART_LENGTH = 264  # "step ", and the longest name of a step


class JobOutput(models.Model):
    """One row of many: the text of this part of the output is cut to `start` characters, and `text` comes behind."""

    id = models.BigAutoField(primary_key=True)
    job = models.ForeignKey(Job, models.CASCADE, related_name="outputs", db_index=False)
    part = models.CharField(
        max_length=PART_LENGTH,
        blank=True,
        help_text=_("Empty: what readers see. Else whose text a later run says again: a step, a loop."),
    )
    place = models.BigIntegerField(help_text=_("The order of the rows: lease_epoch * 2^32 and a number."))
    start = models.IntegerField(help_text=_("So many characters stay of what was there before."))
    text = models.TextField()

    class Meta:
        db_table = table("pgonly_job_output")
        verbose_name = _("output of a job")
        verbose_name_plural = _("outputs of jobs")
        constraints = [models.UniqueConstraint("job", "part", "place", name="pgonly_job_output_once")]

    def __str__(self) -> str:
        return f"output of {self.job_id}"
