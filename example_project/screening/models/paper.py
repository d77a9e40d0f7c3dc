from __future__ import annotations

from django.db import models
from django.db.models import Case, Count, F, Max, Min, Q, Value, When
from django.utils.translation import gettext_lazy as _

from example_project.screening.models.project import Project
from example_project.screening.reviewers import Assignment, Decision

REVIEWERS_PER_PAPER = 2


class Outcome(models.TextChoices):
    """What the verdicts of a paper come to."""

    WAITING = "waiting", _("Waiting")  # not yet judged by both
    INCLUDED = "included", _("Included")  # both say so, or a person did
    EXCLUDED = "excluded", _("Excluded")
    DISPUTED = "disputed", _("For a person")  # they differ, or neither is sure


class PaperQuerySet(models.QuerySet["Paper"]):
    def of(self, project: Project) -> PaperQuerySet:
        """The project's papers in the order of their file. Every run reads them in this order, so it can resume."""
        return self.filter(project=project).order_by("position")

    def with_outcome(self) -> PaperQuerySet:
        """Each paper with its `outcome`. A person's decision stands above the reviewers'."""
        judged = self.annotate(
            said=Count("verdicts"), lowest=Min("verdicts__decision"), highest=Max("verdicts__decision")
        )
        agreed = Q(said=REVIEWERS_PER_PAPER, lowest=F("highest"))
        return judged.annotate(
            came_to=Case(
                When(decided=Decision.INCLUDE, then=Value(Outcome.INCLUDED)),
                When(decided=Decision.EXCLUDE, then=Value(Outcome.EXCLUDED)),
                When(said__lt=REVIEWERS_PER_PAPER, then=Value(Outcome.WAITING)),
                When(agreed & Q(lowest=Decision.INCLUDE), then=Value(Outcome.INCLUDED)),
                When(agreed & Q(lowest=Decision.EXCLUDE), then=Value(Outcome.EXCLUDED)),
                default=Value(Outcome.DISPUTED),
                output_field=models.CharField(),
            )
        )

    def judged(self) -> PaperQuerySet:
        """Those with the verdicts of both reviewers."""
        return self.annotate(said=Count("verdicts")).filter(said=REVIEWERS_PER_PAPER)

    def with_outcomes(self, *outcomes: str) -> PaperQuerySet:
        """Those that came to one of `outcomes`."""
        return self.with_outcome().filter(Q(came_to__in=outcomes))

    def outcomes(self) -> dict[str, int]:
        """How many papers came to what; every Outcome is a key."""
        counts = dict.fromkeys(Outcome.values, 0)
        for came_to in self.with_outcome().order_by().values_list(F("came_to"), flat=True):
            counts[came_to] += 1
        return counts


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
        """What the reviewers are given to read."""
        return Assignment(self.project.question, self.project.criteria, self.title, self.abstract)

    @property
    def outcome(self) -> Outcome:
        """Of a paper from with_outcome()."""
        return Outcome(self.__dict__["came_to"])
