"""What jobs have behind them: their steps, what these have cost, and their checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from example_project.screening.demo import sample_tasks as tasks
from example_project.screening.demo.seeding.history import SECONDS_A_PAGE, SECONDS_AN_ANSWER
from example_project.screening.demo.seeding.rows import MODULE, runs_of
from pgonly_django import Cost
from pgonly_django.models import Checkpoint, CostEntry, Job, Step

SECONDS_A_TRANSLATION = 0.9
PAID = {
    "translate": (tasks.TRANSLATIONS, tasks.A_PAGE),
    "answer_question": (tasks.ASSISTANT, tasks.AN_ANSWER),
}


def write(rows: Iterable[Job]) -> None:
    begun = [row for row in rows if row.progress]
    steps = [step for row in begun for step in _steps_of(row)]
    paid = [step for step in steps if step.usd is not None]
    Step.objects.bulk_create(steps, batch_size=500)
    CostEntry.objects.bulk_create(map(_cost_of, paid), batch_size=500)
    Checkpoint.objects.bulk_create(map(_checkpoint_of, begun), batch_size=500)


def _steps_of(row: Job) -> Iterator[Step]:
    """As many as it has done, one after the other in the runs that it had."""
    done = (row.progress or {})["done"]
    match _name(row):
        case "make_report":
            results: list[Any] = [tasks.words_of(row.args[0], page) for page in range(1, done + 1)]
            return _steps(row, "page {}", results, SECONDS_A_PAGE)
        case "translate":
            results = [f"{row.args[0]}, page {page}, in de" for page in range(1, done + 1)]
            return _steps(row, "page {}", results, SECONDS_A_TRANSLATION, tasks.A_PAGE)
        case "answer_question":
            results = [tasks.answer_to(row.args[0], row.kwargs["api_key"])]
            return _steps(row, "answer", results, SECONDS_AN_ANSWER, tasks.AN_ANSWER)
    return iter(())


def _steps(
    row: Job, name: str, results: list[Any], seconds: float, cost: Cost | None = None
) -> Iterator[Step]:
    paid = {} if cost is None else {name: getattr(cost, name) for name in ("usd", "tokens_in", "tokens_out")}
    length = timedelta(seconds=seconds)
    for number, (result, at) in enumerate(zip(results, _ends(row, length), strict=False), start=1):
        began = at - length
        yield Step(job=row, name=name.format(number), result=result, started_at=began, finished_at=at, **paid)


def _ends(row: Job, length: timedelta) -> Iterator[datetime]:
    for run in runs_of(row):
        at = run.began + length
        while at <= run.ended:
            yield at
            at += length


def _cost_of(step: Step) -> CostEntry:
    row: Job = step.job
    budget, cost = PAID[_name(row)]
    return CostEntry(
        job_id=row.pk, task=row.task, queue=row.queue, budget=budget, step=step.name, at=step.finished_at,
        **asdict(cost),
    )  # fmt: skip


def _checkpoint_of(row: Job) -> Checkpoint:
    done, saved_at = (row.progress or {})["done"], runs_of(row)[-1].ended
    if _name(row) == "import_references":
        return Checkpoint(job=row, value=done, saved_at=saved_at)
    return Checkpoint(job=row, positions={"items": done}, saved_at=saved_at)


def _name(row: Job) -> str:
    return row.task.removeprefix(f"{MODULE}.")
