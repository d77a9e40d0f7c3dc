from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models
from django.utils import timezone

from example_project.screening.models.paper import Paper
from example_project.screening.reviewers import Decision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from example_project.screening.models.project import Project


class VerdictQuerySet(models.QuerySet["Verdict"]):
    def of(self, project: Project) -> VerdictQuerySet:
        return self.filter(paper__project=project)

    def record(self, paper: Paper, opinions: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the opinion of each reviewer (by name) on `paper` in one statement. A second call changes nothing."""
        now = timezone.now()
        verdicts = [
            Verdict(
                paper=paper,
                reviewer=name,
                decision=opinion["decision"],
                reason=opinion["reason"],
                made_at=now,
            )
            for name, opinion in opinions.items()
        ]
        self.bulk_create(
            verdicts,
            update_conflicts=True,
            unique_fields=["paper", "reviewer"],
            update_fields=["decision", "reason"],
        )


class Verdict(models.Model):
    """One reviewer's opinion of one paper. A unique constraint allows one row for each pair."""

    paper = models.ForeignKey(Paper, models.CASCADE, related_name="verdicts")
    reviewer = models.CharField(max_length=100)
    decision = models.CharField(max_length=10, choices=[(d.value, d.value.title()) for d in Decision])
    reason = models.TextField(blank=True)
    made_at = models.DateTimeField()

    objects = VerdictQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["paper", "reviewer"], name="screening_verdict_once")]

    def __str__(self) -> str:
        return f"{self.reviewer}: {self.decision}"
