"""The disputed papers of a project, one after the other, and the decisions of a person on them."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

from example_project.screening.models import Paper, Project
from example_project.screening.models.paper import Outcome
from pgonly_django import send_event


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
    """Write the decision, and let the job hear of it that waits for it, or will. Empty: take it back; the job has heard
    the first one."""
    with transaction.atomic():
        Paper.objects.filter(pk=paper.pk).decide(decision, who)
        if decision:
            send_event(paper.question_key, decision)


def last_decided(project: Project) -> Paper | None:
    """What Undo takes back."""
    return Paper.objects.filter(project=project, decided_at__isnull=False).order_by("-decided_at").first()
