"""The disputed papers of a project, one after the other, and the decisions of a person on them."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils import timezone

from example_project.screening.models import Paper, Project
from example_project.screening.models.paper import Outcome


@dataclass(frozen=True)
class Place:
    """Where a paper stands among the disputed ones. `number` is None where it is none of them."""

    number: int | None
    total: int
    earlier: Paper | None
    later: Paper | None


def place(paper: Paper) -> Place:
    disputed = list(Paper.objects.of(paper.project).of_outcome(Outcome.DISPUTED))
    before = [each for each in disputed if each.position < paper.position]
    after = [each for each in disputed if each.position > paper.position]
    is_disputed = len(before) + len(after) < len(disputed)
    return Place(
        number=len(before) + 1 if is_disputed else None,
        total=len(disputed),
        earlier=before[-1] if before else None,
        later=after[0] if after else None,
    )


def decide(paper: Paper, decision: str, who: str) -> None:
    """Empty: take the decision back."""
    Paper.objects.filter(pk=paper.pk).update(
        decided=decision,
        decided_by=who if decision else "",
        decided_at=timezone.now() if decision else None,
    )


def last_decided(project: Project) -> Paper | None:
    """What Undo takes back."""
    return Paper.objects.filter(project=project, decided_at__isnull=False).order_by("-decided_at").first()
