"""The job's face without a job: for tasks that another backend runs, Django's ImmediateBackend in development.

Same methods as JobContext. Nothing survives the call, so a step is simply made and a checkpoint kept in memory.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, NoReturn, ParamSpec, TypeVar

from asgiref.sync import sync_to_async

from pgonly_django.compat import TaskContext, TaskResult
from pgonly_django.context.iteration import aiterate_from, count
from pgonly_django.events import emit
from pgonly_django.exceptions import LoopNameError, NotStoppingError
from pgonly_django.queue.checkpoints import check_step_name
from pgonly_django.queue.values import to_json

P = ParamSpec("P")
T = TypeVar("T")


class DetachedContext(TaskContext):  # type: ignore[type-arg] # generic in the stubs only
    """See JobContext."""

    should_stop = False
    time_left: float | None = None

    # Django's TaskContext is frozen for its own fields; the frozen setter breaks in subclasses with attributes.
    __setattr__ = object.__setattr__

    def __init__(self, task_result: TaskResult[Any, Any]) -> None:
        self.task_result = task_result
        self.checkpoint: Any = None
        self._steps: dict[str, str] = {}
        self._begun_loops: set[str] = set()

    @property
    def job_id(self) -> str:
        return str(self.task_result.id)

    def stop(self) -> NoReturn:
        raise NotStoppingError

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        emit("task.progress", f"{done} of {total} {message}".rstrip(), level=10, job_id=self.job_id)

    def log(self, line: str) -> None:
        emit("task.log", str(line), job_id=self.job_id)

    def save_checkpoint(self, value: Any) -> None:
        self.checkpoint = json.loads(to_json(value, "The checkpoint"))

    def step(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        check_step_name(name)
        if name not in self._steps:
            self._keep_step(name, function(*args, **kwargs))
        result: T = json.loads(self._steps[name])
        return result

    def iterate(self, items: Iterable[T], *, total: int | None = None, name: str = "items") -> Iterator[T]:
        self._begin_loop(name)
        total = total if total is not None else count(items)
        for done, item in enumerate(items, start=1):
            yield item
            self.progress(done, total, name)

    async def aprogress(self, done: int, total: int | None = None, message: str = "") -> None:
        self.progress(done, total, message)

    async def alog(self, line: str) -> None:
        self.log(line)

    async def asave_checkpoint(self, value: Any) -> None:
        self.save_checkpoint(value)

    async def astep(
        self, name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        check_step_name(name)
        if name not in self._steps:
            self._keep_step(name, await function(*args, **kwargs))
        result: T = json.loads(self._steps[name])
        return result

    async def aiterate(
        self, items: Any, *, total: int | None = None, name: str = "items"
    ) -> AsyncIterator[Any]:
        self._begin_loop(name)
        total = total if total is not None else await sync_to_async(count)(items)
        done = 0
        async for item in aiterate_from(items, 0):
            yield item
            done += 1
            self.progress(done, total, name)

    def _begin_loop(self, name: str) -> None:
        if name in self._begun_loops:
            raise LoopNameError(name)
        self._begun_loops.add(name)

    def _keep_step(self, name: str, value: Any) -> None:
        self._steps[name] = to_json(value, f"The result of step {name!r}")
