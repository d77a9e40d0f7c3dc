"""Rows of jobs as enqueueing and workers would have written them, at a time in the past."""

from __future__ import annotations

import random
import traceback
import uuid
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from example_project.screening.demo import sample_tasks
from pgonly_django.models import Job, State

MODULE = sample_tasks.__name__
WORKERS = uuid.uuid5(uuid.NAMESPACE_DNS, "workers.demo.invalid")
FAILED_FOR = timedelta(days=90)


def ago(**duration: float) -> datetime:
    return timezone.now() - timedelta(**duration)


def worker_id(name: str) -> uuid.UUID:
    """The same at each call, so that a later demo finds the rows of an earlier one."""
    return uuid.uuid5(WORKERS, name)


def job(task: Any, *args: Any, at: datetime, state: State = State.READY, **columns: Any) -> Job:
    """A job of `task`, enqueued at `at`. Keyword arguments of the call are in `kwargs`."""
    options = {"max_attempts": task.max_attempts} if isinstance(task.max_attempts, int) else {}
    values: dict[str, Any] = {
        "id": _id(at), "task": f"{MODULE}.{task.func.__name__}", "queue": task.queue_name, "args": list(args),
        "state": state, "enqueued_at": at, "ready_at": at, "retention": sample_tasks.KEPT, **options,
    }  # fmt: skip
    return Job(**{**values, **columns})


def succeeded(
    task: Any, *args: Any, at: datetime, waited: float, took: float, result: Any, **columns: Any
) -> Job:
    began, ended = at + timedelta(seconds=waited), at + timedelta(seconds=waited + took)
    ran = {"attempt": 1, "lease_epoch": 1, "started_at": began, "attempted_at": began, "finished_at": ended}
    facts = {**ran, "result": result, "delete_after": ended + sample_tasks.KEPT, **columns}
    return job(task, *args, at=at, state=State.SUCCEEDED, **facts)


def failed(task: Any, *args: Any, at: datetime, errors: list[dict[str, Any]], **columns: Any) -> Job:
    began, ended = _time(errors[0]["started_at"]), _time(errors[-1]["finished_at"])
    ran = {"attempt": len(errors), "lease_epoch": len(errors), "started_at": began, "finished_at": ended}
    facts = {
        **ran,
        "attempted_at": _time(errors[-1]["started_at"]),
        "delete_after": ended + FAILED_FOR,
        **columns,
    }
    return job(task, *args, at=at, state=State.FAILED, errors=errors, **facts)


def attempts(
    error: BaseException, at: datetime, count: int, apart: float = 40, took: float = 0.8
) -> list[dict[str, Any]]:
    """`count` attempts that ended with `error`, the first right after `at`, the others `apart` seconds later each."""
    return [
        attempt(error, number + 1, at + timedelta(seconds=number * apart + 0.4), took)
        for number in range(count)
    ]


def attempt(error: BaseException, number: int, began: datetime, took: float = 0.8) -> dict[str, Any]:
    return entry(
        "failed", number, began, took,
        exception=f"{type(error).__module__}.{type(error).__qualname__}",
        message=str(error), traceback="".join(traceback.format_exception(error)),
    )  # fmt: skip


def entry(outcome: str, number: int, began: datetime, took: float, **facts: str) -> dict[str, Any]:
    """What stands in `errors` of one run."""
    name = random.choice(("demo-1", "demo-2"))
    ended = began + timedelta(seconds=took)
    times = {"started_at": began.isoformat(), "finished_at": ended.isoformat()}
    return {
        "outcome": outcome,
        "attempt": number,
        "worker": name,
        "worker_id": str(worker_id(name)),
        **times,
        **facts,
    }


def raised(function: Any, *args: Any, **kwargs: Any) -> BaseException:
    """The error that this call ends with, with its traceback."""
    try:
        function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - whatever it raises is what was asked for
        trace = error.__traceback__
        return error.with_traceback(trace and trace.tb_next)  # without the frame of this function
    raise AssertionError(f"{function.__name__}() raised nothing")


def _id(at: datetime) -> uuid.UUID:
    """A UUID of version 7 of that time: lists are ordered by it."""
    milliseconds = int(at.timestamp() * 1000)
    number = (
        milliseconds << 80 | 0x7 << 76 | random.getrandbits(12) << 64 | 0b10 << 62 | random.getrandbits(62)
    )
    return uuid.UUID(int=number)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
