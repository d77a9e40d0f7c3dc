"""The screening job: it runs for hours with real models and resumes at the paper where it stopped."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction

from example_project.screening.calls import ask
from example_project.screening.models import Paper, Project, Verdict
from example_project.screening.report import sentences
from pgonly_django import Backoff, JobContext, task
from pgonly_django.exceptions import CacheError
from pgonly_django.tasks.result import JobResult

if TYPE_CHECKING:
    from example_project.screening.reviewers import Reviewer


@task(
    queue_name="screening",
    takes_context=True,
    max_attempts=10,
    snooze_on=CacheError,
    backoff=Backoff(base=timedelta(seconds=5), cap=timedelta(minutes=10)),
)
def screen_project(context: JobContext, project_id: int) -> dict[str, int]:
    """Let both reviewers judge every paper of the project. Returns the number of papers of each outcome."""
    project = Project.objects.get(pk=project_id)
    team = project.team()
    run = project.runs.create(papers_done=Paper.objects.of(project).judged().count())
    context.log(f"{' and '.join(project.reviewers)} begin at paper {run.papers_done + 1}")
    for paper in context.iterate(Paper.objects.of(project).select_related("project")):
        _judge(context, paper, team)
    for sentence in sentences(project):
        context.emit(sentence)
    return Paper.objects.of(project).count_by_outcome()


def start_screening(project: Project, queue: str = "") -> None:
    """Enqueue the project's job, unless it has one: the INSERT commits together with the job's id in the project."""
    with transaction.atomic():
        locked = Project.objects.select_for_update().get(pk=project.pk)
        if locked.job is None:
            task = screen_project.using(queue_name=queue) if queue else screen_project
            result = task.enqueue(project.pk)
            project.job_id = result.id if isinstance(result, JobResult) else None
            project.save(update_fields=["job_id"])


def _judge(context: JobContext, paper: Paper, team: list[Reviewer]) -> None:
    """One step per reviewer: an opinion that was paid for is kept with the job, so no later run pays for it again."""
    opinions: dict[str, dict[str, Any]] = {
        reviewer.name: context.step(f"{paper.pk}:{reviewer.name}", ask, reviewer, paper, context)
        for reviewer in team
    }
    Verdict.objects.record(paper, opinions)
