"""The job context without a job: for tasks that another backend runs, such as Django's ImmediateBackend."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

from pgonly_django.compat import TaskResult
from pgonly_django.context.calls import Calls, Spending
from pgonly_django.context.context import JobContext
from pgonly_django.context.memory import Memory, text_of
from pgonly_django.context.run import Run
from pgonly_django.events import emit
from pgonly_django.exceptions import CannotWaitError, LoopNameError
from pgonly_django.queue.carried import SHOWN
from pgonly_django.queue.checkpoints import Position
from pgonly_django.queue.values import to_json

T = TypeVar("T")
NOT_IN_A_WORKER = "its task does not run in a worker of this package"


class DetachedMemory(Memory):
    """See Memory."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self._checkpoint = "null"
        self._steps: dict[str, str] = {}
        self._loop_names: set[str] = set()

    @property
    def checkpoint(self) -> Any:
        return json.loads(self._checkpoint)

    def save_checkpoint(self, value: Any) -> None:
        self._checkpoint = to_json(value, "The checkpoint")

    def begin_loop(self, name: str) -> Position:
        if name in self._loop_names:
            raise LoopNameError(name)
        self._loop_names.add(name)
        return Position()

    def advance_loop(self, name: str, at: Position) -> bool:  # noqa: ARG002 - nothing saves it
        return False

    def end_loop(self, name: str) -> None:
        """Does nothing: there is no loop to resume."""

    def read(self, alias: str, read: Callable[[], T]) -> T:  # noqa: ARG002 - nothing waits for a database
        return read()

    def flush(self) -> None:
        """Does nothing: there is nothing to write."""

    def find_step(self, name: str) -> str | None:
        return self._steps.get(name)

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        with self.calls.one(name):
            yield

    def keep_step(self, name: str, value: Any, spending: Spending) -> str:
        self._steps[name] = to_json(spending.take(value), f"The result of step {name!r}")
        spending.settle(is_new=True)
        return self._steps[name]

    def refuse_wait(self, name: str) -> None:
        """See Memory."""
        raise CannotWaitError(name, NOT_IN_A_WORKER)

    def find_batch(self, name: str) -> None:
        self.refuse_wait(name)


class DetachedContext(JobContext):
    """See JobContext. There is no row and no worker: checkpoint and steps are kept in memory until the call ends, and
    nothing asks its run to stop."""

    def __init__(self, task_result: TaskResult[Any, Any]) -> None:
        given = dict(getattr(task_result.task, "carried", ()))
        carried = {name: json.loads(given.get(name, "null")) for name in SHOWN}
        job: Any = SimpleNamespace(id=str(task_result.id), attempt=task_result.attempts, **carried)
        run = Run(job, alias="", claimed_at=0.0, lease_until=math.inf)
        super().__init__(task_result, run, DetachedMemory(run.calls))

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        facts = f"{done} of {total} {message}".rstrip()
        emit("task.progress", facts, level=logging.DEBUG, job_id=self.job_id)

    def log(self, line: str) -> None:
        emit("task.log", str(line), job_id=self.job_id)

    def emit(self, chunk: str) -> None:
        emit("task.output", text_of(chunk), level=logging.DEBUG, job_id=self.job_id)
