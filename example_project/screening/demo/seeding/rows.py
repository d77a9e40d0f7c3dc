"""Rows of jobs as enqueueing and workers would have written them, at a time in the past."""

from __future__ import annotations

import random
import traceback
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.utils import timezone

from example_project.screening.demo import sample_tasks
from example_project.screening.demo.seeding.workers import DEAD, Life, at_work
from pgonly_django.models import Job, State
from pgonly_django.outcomes import Outcome

MODULE = sample_tasks.__name__
FAILED_FOR = timedelta(days=90)
FIRST_PAUSE = (
    sample_tasks.SOON.base * 0.75
)  # between the first two attempts of a mail; the next one is twice as long


def ago(**duration: float) -> datetime:
    return timezone.now() - timedelta(**duration)


def job(task: Any, *args: Any, at: datetime, state: State = State.READY, **columns: Any) -> Job:
    """A job of `task`, enqueued at `at`. Keyword arguments of the call are in `kwargs`. Where it has `errors`, its runs
    are those that they tell of."""
    options = {"max_attempts": task.max_attempts} if isinstance(task.max_attempts, int) else {}
    values: dict[str, Any] = {
        "id": id_at(at), "task": f"{MODULE}.{task.func.__name__}", "queue": task.queue_name, "args": list(args),
        "state": state, "enqueued_at": at, "ready_at": at, "retention": sample_tasks.KEPT, **options,
    }  # fmt: skip
    runs = [entry for entry in columns.get("errors", ()) if "started_at" in entry]
    if runs:
        values["started_at"], values["attempted_at"] = (_time(runs[n]["started_at"]) for n in (0, -1))
        values |= {"worker_id": runs[-1]["worker_id"], "lease_epoch": len(runs)}
    return Job(**{**values, **columns})


def succeeded(
    task: Any, *args: Any, at: datetime, took: float, result: Any, waited: float | None = None,
    errors: Sequence[dict[str, Any]] = (), **columns: Any,
) -> Job:  # fmt: skip
    """Its last run began `waited` seconds after it was enqueued, or after the last of `errors`."""
    since = _time(errors[-1]["finished_at"]) if errors else at
    began = since + timedelta(seconds=random.expovariate(1 / 1.5) if waited is None else waited)
    ended = began + timedelta(seconds=took)
    ran = {
        "started_at": _time(errors[0]["started_at"]) if errors else began, "attempted_at": began, "finished_at": ended,
        "attempt": 1 + sum(entry["outcome"] == Outcome.FAILED for entry in errors), "lease_epoch": 1 + len(errors),
        "worker_id": at_work(task.queue_name, began).worker_id,
    }  # fmt: skip
    facts = {**ran, "result": result, "delete_after": ended + sample_tasks.KEPT, "errors": list(errors)}
    return job(task, *args, at=at, state=State.SUCCEEDED, **facts, **columns)


def failed(task: Any, *args: Any, at: datetime, errors: list[dict[str, Any]], **columns: Any) -> Job:
    ended = _time(errors[-1]["finished_at"])
    facts = {"attempt": errors[-1]["attempt"], "finished_at": ended, "delete_after": ended + FAILED_FOR}
    return job(task, *args, at=at, state=State.FAILED, errors=errors, **facts, **columns)


def refusals(error: BaseException, at: datetime, count: int) -> list[dict[str, Any]]:
    """`count` attempts of a mail that ended with `error`, the first one right after `at`."""
    return [
        attempt(
            error, number, at + timedelta(seconds=0.4) + FIRST_PAUSE * (2 ** (number - 1) - 1), random.uniform(0.3, 1.2)
        )
        for number in range(1, count + 1)
    ]  # fmt: skip


def attempt(error: BaseException, number: int, began: datetime, took: float) -> dict[str, Any]:
    return entry(
        "failed", number, began, took,
        exception=f"{type(error).__module__}.{type(error).__qualname__}",
        message=str(error), traceback="".join(traceback.format_exception(error)),
    )  # fmt: skip


def entry(
    outcome: str, number: int, began: datetime, took: float, worker: Life | None = None, **facts: str
) -> dict[str, Any]:
    """What stands in `errors` of one run."""
    worker = worker or at_work("mail", began)
    ended = began + timedelta(seconds=took)
    times = {"started_at": began.isoformat(), "finished_at": ended.isoformat()}
    by = {"worker": worker.name, "worker_id": str(worker.worker_id)}
    return {"outcome": outcome, "attempt": number, **by, **times, **facts}


class Run(NamedTuple):
    outcome: str
    began: datetime
    ended: datetime


def runs_of(row: Job) -> list[Run]:
    """All runs of a job, the present one too, which ended when its worker fell silent."""
    runs = [
        Run(entry["outcome"], _time(entry["started_at"]), _time(entry["finished_at"]))
        for entry in row.errors
        if "started_at" in entry
    ]
    if row.state in (State.SUCCEEDED, State.RUNNING) and row.attempted_at is not None:
        runs.append(Run(row.state, row.attempted_at, row.finished_at or timezone.now() - DEAD.ended))
    return runs


def progress(done: int, total: int, message: str = "") -> dict[str, Any]:
    return {"done": done, "total": total, "message": message}


def raised(function: Any, *args: Any, **kwargs: Any) -> BaseException:
    """The error that this call ends with, with its traceback."""
    try:
        function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - whatever it raises is what was asked for
        trace = error.__traceback__
        return error.with_traceback(trace and trace.tb_next)  # without the frame of this function
    raise AssertionError(f"{function.__name__}() raised nothing")


def id_at(at: datetime) -> uuid.UUID:
    """A UUID of version 7 of that time: lists are ordered by it."""
    milliseconds = int(at.timestamp() * 1000)
    number = (
        milliseconds << 80 | 0x7 << 76 | random.getrandbits(12) << 64 | 0b10 << 62 | random.getrandbits(62)
    )
    return uuid.UUID(int=number)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
