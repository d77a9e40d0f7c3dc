"""A screening project: one question, two reviewers, and the job in which they judge its papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.utils.translation import gettext_lazy as _

from example_project.screening.reviewers import Reviewer, build_reviewer, configured_names
from pgonly_django.models import Job

if TYPE_CHECKING:
    from pgonly_django.models.job import JobQuerySet


class Project(models.Model):
    name = models.CharField(max_length=200)
    question = models.TextField(help_text=_("What the review wants to know."))
    criteria = models.TextField(
        help_text=_("Which papers are included. The reviewers get this text as it is.")
    )
    reviewers = models.JSONField(
        default=configured_names,
        help_text=_("Fixed when the project is created, so all its verdicts come from the same two."),
    )
    job_id = models.UUIDField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.name

    @property
    def job(self) -> Job | None:
        """The job's row, read now. None before the start, after pruning, and with another task backend."""
        return self._jobs().first()

    def team(self) -> list[Reviewer]:
        """Raises ImproperlyConfigured when a reviewer of this project is not configured here."""
        return [build_reviewer(name) for name in self.reviewers]

    def cancel(self) -> None:
        """Stop the screening: a waiting one at once, a running one between two papers. Its verdicts stay."""
        self._jobs().cancel()

    def resume(self) -> None:
        """Continue a cancelled or failed screening where it stopped."""
        self._jobs().retry()

    def _jobs(self) -> JobQuerySet:
        return Job.objects.filter(pk=self.job_id) if self.job_id else Job.objects.none()


class ScreeningRun(models.Model):
    """One run of the project's job: the first one, and another one each time that it resumes."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="runs")
    papers_done = models.PositiveIntegerField(
        help_text=_("How many papers had both verdicts when the run began.")
    )
    started_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"run from paper {self.papers_done}"
