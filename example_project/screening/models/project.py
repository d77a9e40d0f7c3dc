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
        help_text=_("Which papers are included. Reviewers are told this word by word.")
    )
    reviewers = models.JSONField(
        default=configured_names,
        help_text=_("Fixed when the project is made, so that all its verdicts are theirs."),
    )
    job_id = models.UUIDField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.name

    @property
    def job(self) -> Job | None:
        """The job's row as it is now; None before the start, once pruned, or run by another backend."""
        return self._jobs().first()

    def team(self) -> list[Reviewer]:
        """Raises ImproperlyConfigured when a reviewer of this project cannot be had here."""
        return [build_reviewer(name) for name in self.reviewers]

    def cancel(self) -> None:
        """Stop the screening: at once when it waits, between two papers when it runs. Verdicts stay."""
        self._jobs().cancel()

    def resume(self) -> None:
        """Go on where a cancelled or failed screening stood."""
        self._jobs().retry()

    def _jobs(self) -> JobQuerySet:
        return Job.objects.filter(pk=self.job_id) if self.job_id else Job.objects.none()


class ScreeningRun(models.Model):
    """One run of the project's job: the first, and one more for every resumption."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="runs")
    papers_done = models.PositiveIntegerField(help_text=_("How many papers had both verdicts when it began."))
    started_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"run from paper {self.papers_done}"
