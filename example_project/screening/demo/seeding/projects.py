"""A project that was screened last week, so that there are disputes for a person to decide, and what it has cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import F, Sum

from example_project.screening.calls import price
from example_project.screening.demo import prepare
from example_project.screening.demo.seeding.rows import ago, id_at
from example_project.screening.importers import new_project, read_papers
from example_project.screening.models import Paper, Project, ReviewerCall, Verdict
from example_project.screening.models.paper import Outcome
from example_project.screening.reviewers import pico, points
from example_project.screening.reviewers.interface import Opinion, Usage
from example_project.screening.reviewers.tokens import pretended
from example_project.screening.tasks import screen_project, start_screening
from pgonly_django.models import Budget, CostEntry

NAME = "Screened last week"
READ = {"points": points.read, "pico": pico.read}
DAYS_AGO = 8  # its job is deleted by now
A_CALL = timedelta(seconds=1.4)


class Call(NamedTuple):
    paper: Paper
    reviewer: str
    opinion: Opinion
    usage: Usage
    ended: datetime


def ask() -> None:
    """Let a job for each paper that is still disputed ask a person: a worker of the demo runs them."""
    project = Project.objects.get(name=NAME)
    if Paper.objects.of(project).of_outcome(Outcome.DISPUTED).exists():
        start_screening(project, by_paper=True)


def write() -> None:
    """Once: what a person decides there stays."""
    if Project.objects.filter(name=NAME).exists():
        return
    began = ago(days=DAYS_AGO)
    project = new_project(NAME, prepare.QUESTION, prepare.CRITERIA, read_papers(prepare.SAMPLE.read_bytes()))
    project.reviewers, project.job_id, project.created_at = list(READ), id_at(began), began
    project.save()
    run = project.runs.create(papers_done=0)
    project.runs.filter(pk=run.pk).update(started_at=began)
    calls = _calls(project, began)
    Verdict.objects.bulk_create(
        Verdict(paper=call.paper, reviewer=call.reviewer, decision=call.opinion.decision, reason=call.opinion.reason,
                made_at=call.ended)
        for call in calls
    )  # fmt: skip
    ReviewerCall.objects.bulk_create(
        ReviewerCall(paper=call.paper, reviewer=call.reviewer, outcome="answered", finished_at=call.ended)
        for call in calls
    )
    ReviewerCall.objects.filter(paper__project=project).update(started_at=F("finished_at") - A_CALL)
    CostEntry.objects.bulk_create(_cost_of(call) for call in calls)
    _write_budget(project)


def _calls(project: Project, began: datetime) -> list[Call]:
    calls: list[Call] = []
    for paper in Paper.objects.of(project).select_related("project"):
        for name, read in READ.items():
            opinion, usage = pretended(read(paper.assignment().text), paper.assignment())
            calls.append(Call(paper, name, opinion, usage, began + A_CALL * (len(calls) + 1)))
    return calls


def _cost_of(call: Call) -> CostEntry:
    project, step = call.paper.project, f"{call.reviewer} on paper {call.paper.position}"
    tokens = {"tokens_in": call.usage.tokens_in, "tokens_out": call.usage.tokens_out}
    return CostEntry(
        at=call.ended, job_id=project.job_id, task=screen_project.module_path, queue=screen_project.queue_name,
        budget=project.budget().name, step=step, usd=price(call.usage), model=call.reviewer, **tokens,
    )  # fmt: skip


def _write_budget(project: Project) -> None:
    name, usd = project.budget().name, project.budget_usd
    spent = CostEntry.objects.filter(budget=name).aggregate(sum=Sum("usd"))["sum"]
    declared = {"usd": str(usd), "per": None, "timezone": "UTC"}
    Budget.objects.create(name=name, usd=usd, spent=spent, declared=declared)
