"""A screening project: one question, its papers, two reviewers, and the job in which they judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models, transaction
from django.utils.translation import gettext_lazy as _

from example_project.screening.reviewers import Reviewer, build_reviewer, configured_names
from pgonly_django.models import Job
from pgonly_django.tasks.result import JobResult

if TYPE_CHECKING:
    from django.db.models.fields.related_descriptors import RelatedManager

    from example_project.screening.models.paper import Paper, PaperQuerySet
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

    papers: RelatedManager[Paper]
    runs: RelatedManager[ScreeningRun]

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.name

    @property
    def job(self) -> Job | None:
        """The job's row as it is now; None before the start, once pruned, or run by another backend."""
        return self._jobs().first()

    def ordered_papers(self) -> PaperQuerySet:
        """The papers in the order of their file: the same in every run, which is what resuming relies on."""
        from example_project.screening.models.paper import Paper

        return Paper.objects.filter(project=self).order_by("position")

    def team(self) -> list[Reviewer]:
        """Raises ImproperlyConfigured when a reviewer of this project cannot be had here."""
        return [build_reviewer(name) for name in self.reviewers]

    # The three buttons.

    def start(self, queue: str = "") -> None:
        """Enqueue the screening, once: the INSERT commits together with the job's id in this row."""
        from example_project.screening.tasks import screen_project

        with transaction.atomic():
            locked = Project.objects.select_for_update().get(pk=self.pk)
            if locked.job is None:
                task = screen_project.using(queue_name=queue) if queue else screen_project
                result = task.enqueue(self.pk)
                self.job_id = result.id if isinstance(result, JobResult) else None
                self.save(update_fields=["job_id"])

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
