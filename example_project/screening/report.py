"""The report at the end of a screening, sentence by sentence: the job emits it, and the project's page shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from example_project.screening.models.paper import Outcome
from example_project.screening.summary import summarise

if TYPE_CHECKING:
    from example_project.screening.models import Project


def sentences(project: Project) -> Iterator[str]:
    """The same for the same verdicts, so that a run that writes them again changes nothing."""
    summary = summarise(project)
    counts, papers = summary["outcomes"], summary["papers"]
    yield f"{' and '.join(project.reviewers)} have judged {papers} papers. "
    yield f"They include {counts[Outcome.INCLUDED]} and exclude {counts[Outcome.EXCLUDED]}. "
    if counts[Outcome.DISPUTED]:
        yield f"{counts[Outcome.DISPUTED]} are for a person to decide. "
    if summary["agreement_percent"] is not None:
        yield f"The two agree on {summary['agreement_percent']} % of the papers. "
    together = (summary["quality"] or {}).get("together", {})
    if together.get("recall") is not None:
        yield f"Measured against the labels in the file, recall is {together['recall']}. "
