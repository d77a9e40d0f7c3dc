"""A screening project: one question, two reviewers, and the job in which they judge its papers."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext_lazy as _

from example_project.screening.reviewers import Reviewer, build_reviewer, configured_names
from pgonly_django import budget
from pgonly_django.models import Budget as BudgetRow
from pgonly_django.models import Job, JobBatch

if TYPE_CHECKING:
    from pgonly_django.limits.budget import NamedBudget
    from pgonly_django.models.job import JobQuerySet


def default_budget() -> Decimal:
    return Decimal(settings.SCREENING_BUDGET_USD)


class ProjectQuerySet(models.QuerySet["Project"]):
    def with_title(self) -> ProjectQuerySet:
        """Each knows whether another one has its name, which its `title` asks for."""
        others = Project.objects.filter(name=OuterRef("name")).exclude(pk=OuterRef("pk"))
        return self.annotate(has_namesake=Exists(others))


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
    budget_usd = models.DecimalField(
        _("budget in US dollars"),
        max_digits=12,
        decimal_places=4,
        default=default_budget,
        help_text=_("What the calls of both reviewers may cost together."),
    )
    job_id = models.UUIDField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-pk"]

    def __str__(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        """The name; with the time at which it was made, where another project has the same."""
        others = Project.objects.filter(name=self.name).exclude(pk=self.pk)
        is_alike = self.__dict__.get("has_namesake")  # of with_title()
        if not (others.exists() if is_alike is None else is_alike):
            return self.name
        return f"{self.name}, {date_format(timezone.localtime(self.created_at), 'j F Y, H:i:s')}"

    @property
    def job(self) -> Job | None:
        """The job's row, read now. None before the start, after pruning, and with another task backend."""
        return self._jobs().first()

    def team(self) -> list[Reviewer]:
        """Raises ImproperlyConfigured when a reviewer of this project is not configured here."""
        return [build_reviewer(name) for name in self.reviewers]

    @property
    def members(self) -> JobQuerySet:
        """The jobs of single papers, where it is screened in this way."""
        batches = JobBatch.objects.filter(parent=self.job_id).values("pk")
        return Job.objects.filter(batch_id__in=batches) if self.job_id else Job.objects.none()

    def cancel(self) -> None:
        """Stop the screening: a waiting one at once, a running one between two papers. Its verdicts stay."""
        self._jobs().cancel()

    def resume(self) -> None:
        """Continue a cancelled, failed or held screening where it stopped."""
        with transaction.atomic():
            self._jobs().retry()
            self.members.retry()

    def budget(self) -> NamedBudget:
        """Shared by all processes that screen this project. A change in the admin wins over budget_usd."""
        return budget(f"project:{self.pk}", usd=self.budget_usd)

    def budget_row(self) -> Any:
        """The budget's row, with `spent_now`. None before the first call."""
        return BudgetRow.objects.with_spent_now().filter(name=self.budget().name).first()

    def raise_budget(self, usd: Decimal) -> None:
        """Raise the cap, and let the screening go on if the budget holds it. Raises BudgetError if it is no higher."""
        with transaction.atomic():
            BudgetRow.objects.filter(name=self.budget().name).raise_cap(usd)
            self.budget_usd = usd
            self.save(update_fields=["budget_usd"])

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
