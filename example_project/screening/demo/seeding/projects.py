"""A project whose papers are judged already, so that there are disputes for a person to decide."""

from __future__ import annotations

from example_project.screening.demo import prepare
from example_project.screening.importers import new_project, read_papers
from example_project.screening.models import Paper, Project, Verdict
from example_project.screening.reviewers import pico, points

NAME = "Screened last week"
READ = {"points": points.read, "pico": pico.read}


def write() -> None:
    """Once: what a person decides there stays."""
    if Project.objects.filter(name=NAME).exists():
        return
    project = new_project(NAME, prepare.QUESTION, prepare.CRITERIA, read_papers(prepare.SAMPLE.read_bytes()))
    project.reviewers = list(READ)
    project.save(update_fields=["reviewers"])
    for paper in Paper.objects.of(project).select_related("project"):
        text = paper.assignment().text
        opinions = {name: read(text) for name, read in READ.items()}
        facts = {name: {"decision": each.decision, "reason": each.reason} for name, each in opinions.items()}
        Verdict.objects.record(paper, facts)
