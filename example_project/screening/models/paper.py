from __future__ import annotations

from django.db import models
from django.db.models import Case, Count, F, Max, Min, Q, Value, When
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from example_project.screening.models.project import Project
from example_project.screening.reviewers import Assignment, Decision

REVIEWERS_PER_PAPER = 2


class Outcome(models.TextChoices):
    """What the two verdicts on a paper, or a person's decision, mean for it."""

    WAITING = "waiting", _("Waiting")  # at least one verdict is missing
    INCLUDED = "included", _("Included")  # both reviewers include it, or a person did
    EXCLUDED = "excluded", _("Excluded")
    DISPUTED = "disputed", _("For a person")  # the reviewers differ, or both are unsure


class PaperQuerySet(models.QuerySet["Paper"]):
    def of(self, project: Project) -> PaperQuerySet:
        """The project's papers in the order of their file. Every run reads them in this order, so it can resume."""
        return self.filter(project=project).order_by("position")

    def with_outcome(self) -> PaperQuerySet:
        """Each paper with its `outcome`. A person's decision overrides the reviewers'."""
        judged = self.annotate(
            verdict_count=Count("verdicts"),
            lowest=Min("verdicts__decision"),
            highest=Max("verdicts__decision"),
        )
        agreed = Q(verdict_count=REVIEWERS_PER_PAPER, lowest=F("highest"))
        return judged.annotate(
            outcome_value=Case(
                When(decided=Decision.INCLUDE, then=Value(Outcome.INCLUDED)),
                When(decided=Decision.EXCLUDE, then=Value(Outcome.EXCLUDED)),
                When(verdict_count__lt=REVIEWERS_PER_PAPER, then=Value(Outcome.WAITING)),
                When(agreed & Q(lowest=Decision.INCLUDE), then=Value(Outcome.INCLUDED)),
                When(agreed & Q(lowest=Decision.EXCLUDE), then=Value(Outcome.EXCLUDED)),
                default=Value(Outcome.DISPUTED),
                output_field=models.CharField(),
            )
        )

    def judged(self) -> PaperQuerySet:
        """The papers with the verdicts of both reviewers."""
        return self.annotate(verdict_count=Count("verdicts")).filter(verdict_count=REVIEWERS_PER_PAPER)

    def of_outcome(self, *outcomes: str) -> PaperQuerySet:
        """The papers with one of these outcomes."""
        return self.with_outcome().filter(Q(outcome_value__in=outcomes))

    def count_by_outcome(self) -> dict[str, int]:
        """The number of papers of each outcome; every Outcome is a key."""
        counts = dict.fromkeys(Outcome.values, 0)
        for outcome in self.with_outcome().order_by().values_list(F("outcome_value"), flat=True):
            counts[outcome] += 1
        return counts

    def decide(self, decision: str, who: str) -> int:
        """Write the decision of a person. Empty: take it back. Returns how many papers it changed."""
        return self.update(
            decided=decision,
            decided_by=who if decision else "",
            decided_at=timezone.now() if decision else None,
        )


class Paper(models.Model):
    project = models.ForeignKey(Project, models.CASCADE, related_name="papers")
    position = models.PositiveIntegerField(help_text=_("Its place in the file, from 1."))
    source_id = models.CharField(
        max_length=200, blank=True, help_text=_("The id in the file, a PMID for instance.")
    )
    title = models.TextField()
    abstract = models.TextField(blank=True)
    journal = models.CharField(max_length=300, blank=True)
    year = models.CharField(max_length=20, blank=True)
    label = models.BooleanField(
        null=True, help_text=_("The file's own answer. For evaluation; reviewers never see it.")
    )
    decided = models.CharField(
        max_length=10, blank=True, choices=[("include", _("Include")), ("exclude", _("Exclude"))]
    )
    decided_by = models.CharField(max_length=150, blank=True)
    decided_at = models.DateTimeField(null=True)

    objects = PaperQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint("project", "position", name="screening_paper_position")]

    def __str__(self) -> str:
        return self.title

    def assignment(self) -> Assignment:
        """The part of the paper and of its project that a reviewer may read."""
        return Assignment(self.project.question, self.project.criteria, self.title, self.abstract)

    @property
    def question_key(self) -> str:
        """The event by which a person decides it. Another screening of the project asks anew, with another key."""
        return f"paper:{self.pk}:{self.project.job_id}"

    @property
    def outcome(self) -> Outcome:
        """Only for a paper from with_outcome()."""
        return Outcome(self.__dict__["outcome_value"])
