"""The result of a screening as plain values, for the page, the terminal and JSON."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from django.db.models import Max, Min

from example_project.screening.agreement import cohens_kappa, percent_agreement, precision_and_recall
from example_project.screening.models import Paper, Project, ReviewerCall, Verdict
from example_project.screening.reviewers import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

Judged = tuple[bool | None, str, str]  # label, first reviewer's decision, second's


def summarise(project: Project) -> dict[str, Any]:
    """The figures of a screening that is finished or still under way.

    `reviewer_calls` counts the calls made, not the verdicts. `verdicts_digest` is equal for two projects with
    the same papers and verdicts.
    """
    judged = _judged(project)
    pairs = [(first, second) for _, first, second in judged]
    return {
        "papers": project.papers.count(),
        "verdicts": Verdict.objects.of(project).count(),
        "verdicts_digest": digest(project),
        "outcomes": Paper.objects.of(project).count_by_outcome(),
        "agreement_percent": _rounded(percent_agreement(pairs), 1),
        "cohens_kappa": _rounded(cohens_kappa(pairs), 3),
        "quality": _quality(project.reviewers, judged),
        "reviewer_calls": calls(project),
        "spent_usd": spent(project),
        "resumed_from": resumed_from(project),
        "seconds": seconds(project),
    }


def digest(project: Project) -> str:
    """SHA-256 over every verdict: position of its paper, reviewer, decision and reason."""
    rows = Verdict.objects.of(project).order_by("paper__position", "reviewer")
    sha = hashlib.sha256()
    for row in rows.values_list("paper__position", "reviewer", "decision", "reason"):
        sha.update("\t".join(map(str, row)).encode() + b"\n")
    return sha.hexdigest()


def calls(project: Project) -> int:
    """How many calls were made, including those in flight when a worker was killed."""
    return ReviewerCall.objects.filter(paper__project=project).count()


def spent(project: Project) -> float:
    """US dollars, of the project's budget."""
    row = project.budget_row()
    return 0.0 if row is None else round(float(row.spent_now), 4)


def resumed_from(project: Project) -> int | None:
    """How many papers were done when the last run began. None when there was only one run."""
    done = list(project.runs.values_list("papers_done", flat=True))
    return done[-1] if len(done) > 1 else None


def seconds(project: Project) -> float | None:
    """Seconds from the first call to the last answer."""
    made = ReviewerCall.objects.filter(paper__project=project)
    span = made.aggregate(begin=Min("started_at"), end=Max("finished_at"))
    if span["begin"] is None or span["end"] is None:
        return None
    took: timedelta = span["end"] - span["begin"]
    return round(took.total_seconds(), 2)


def _judged(project: Project) -> list[Judged]:
    first, second = project.reviewers
    decisions: dict[int, dict[str, str]] = {}
    labels: dict[int, bool | None] = {}
    rows = Verdict.objects.of(project).values_list("paper_id", "paper__label", "reviewer", "decision")
    for paper, label, reviewer, decision in rows:
        labels[paper] = label
        decisions.setdefault(paper, {})[reviewer] = decision
    return [
        (labels[paper], by_reviewer[first], by_reviewer[second])
        for paper, by_reviewer in decisions.items()
        if first in by_reviewer and second in by_reviewer
    ]


def _quality(reviewers: Sequence[str], judged: Sequence[Judged]) -> dict[str, Any] | None:
    """Precision and recall of each reviewer and of both together. None without labels.

    "together" counts a paper as chosen unless both exclude it: a disputed paper goes to a person and is not lost.
    """
    known = [(label, first, second) for label, first, second in judged if label is not None]
    if not known:
        return None
    labels = [label for label, _, _ in known]
    chosen = {
        reviewers[0]: [first == Decision.INCLUDE for _, first, _ in known],
        reviewers[1]: [second == Decision.INCLUDE for _, _, second in known],
        "together": [(first, second) != (Decision.EXCLUDE, Decision.EXCLUDE) for _, first, second in known],
    }
    return {name: _scores(picked, labels) for name, picked in chosen.items()}


def _scores(chosen: Sequence[bool], labels: Sequence[bool]) -> dict[str, float | None]:
    precision, recall = precision_and_recall(chosen, labels)
    return {"precision": _rounded(precision, 3), "recall": _rounded(recall, 3)}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
