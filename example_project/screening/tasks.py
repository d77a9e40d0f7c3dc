"""The screening, in two ways: one long job for all papers, or a job for each paper. Both resume where they stopped."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction

from example_project.screening.calls import ask
from example_project.screening.models import Paper, Project, Verdict
from example_project.screening.models.paper import Outcome
from example_project.screening.report import sentences
from example_project.screening.reviewers import Decision
from pgonly_django import Backoff, Discard, JobContext, task
from pgonly_django.exceptions import CacheError, GatherError
from pgonly_django.tasks.result import JobResult

if TYPE_CHECKING:
    from example_project.screening.reviewers import Reviewer

CHOICES = (Decision.INCLUDE.value, Decision.EXCLUDE.value)
BACKOFF = Backoff(base=timedelta(seconds=5), cap=timedelta(minutes=10))


@task(queue_name="screening", takes_context=True, max_attempts=10, snooze_on=CacheError, backoff=BACKOFF)
def screen_project(context: JobContext, project_id: int) -> dict[str, int]:
    """Let both reviewers judge every paper of the project. Returns the number of papers of each outcome."""
    project = Project.objects.get(pk=project_id)
    team = project.team()
    run = project.runs.create(papers_done=Paper.objects.of(project).judged().count())
    context.log(f"{' and '.join(project.reviewers)} begin at paper {run.papers_done + 1}")
    for paper in context.iterate(Paper.objects.of(project).select_related("project")):
        _judge(context, paper, team)
    return _report(context, project)


@task(queue_name="screening", takes_context=True)
def screen_papers(context: JobContext, project_id: int) -> dict[str, int]:
    """The second way: a job for each undecided paper, many at a time. This one waits for all of them, without a thread.
    Returns what screen_project() does."""
    project = Project.objects.get(pk=project_id)
    one = screen_paper.using(queue_name=context.task_result.task.queue_name)
    undecided = Paper.objects.of(project).of_outcome(Outcome.WAITING, Outcome.DISPUTED)
    try:
        context.gather("papers", (one.bind(paper.pk) for paper in undecided))
    except GatherError as error:  # a person repairs what has failed, and resumes both
        raise Discard(str(error)) from error
    return _report(context, project)


@task(queue_name="screening", takes_context=True, max_attempts=10, snooze_on=CacheError, backoff=BACKOFF)
def screen_paper(context: JobContext, paper_id: int) -> str:
    """Let both reviewers judge a paper. Where they disagree a person decides, days later if need be: until then the job
    waits without a thread. Returns the outcome."""
    papers = Paper.objects.select_related("project").with_outcome()
    paper = papers.get(pk=paper_id)
    if paper.outcome == Outcome.WAITING:
        _judge(context, paper, paper.project.team())
        paper = papers.get(pk=paper_id)
    if paper.outcome == Outcome.DISPUTED:
        question = f"{paper.title} ({', '.join(map(str, paper.verdicts.all()))}): include it?"
        decision = context.wait_for_event(paper.question_key, choices=CHOICES, question=question)
        # The project's page has written it already, the admin has not.
        Paper.objects.filter(pk=paper_id, decided="").decide(decision, "a person")
        paper = papers.get(pk=paper_id)
    return paper.outcome


def start_screening(project: Project, queue: str = "", *, by_paper: bool = False) -> None:
    """Enqueue the project's job, unless it has one: the INSERT commits together with the job's id in the project.

    `by_paper`: a job for each paper that is undecided, also in a project that was screened before."""
    with transaction.atomic():
        job = Project.objects.select_for_update().get(pk=project.pk).job
        if job is None or (by_paper and job.is_finished):
            task = screen_papers if by_paper else screen_project
            result = (task.using(queue_name=queue) if queue else task).enqueue(project.pk)
            project.job_id = result.id if isinstance(result, JobResult) else None
            project.save(update_fields=["job_id"])


def _judge(context: JobContext, paper: Paper, team: list[Reviewer]) -> None:
    """One step per reviewer: an opinion that was paid for is kept with the job, so no later run pays for it again."""
    opinions: dict[str, dict[str, Any]] = {
        reviewer.name: context.step(f"{paper.pk}:{reviewer.name}", ask, reviewer, paper, context)
        for reviewer in team
    }
    Verdict.objects.record(paper, opinions)


def _report(context: JobContext, project: Project) -> dict[str, int]:
    for sentence in sentences(project):
        context.emit(sentence)
    return Paper.objects.of(project).count_by_outcome()
