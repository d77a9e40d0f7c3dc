"""Hooks for tracing and error reporting, which monitoring/opentelemetry.py and monitoring/sentry.py use.

    stop = instruments.carry(lambda enqueue: {"request": request_id.get()})  # stop() ends it

Hooks are called where the work is done: in the caller's thread, in the job's thread, on the event loop. One that raises
is logged, and changes nothing. One that does not return holds up what it is around. While hooks of this process run,
what they enqueue themselves calls none. Without any, an enqueue and a run ask one tuple each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from pgonly_django.events import emit


@dataclass(eq=False, slots=True)
class EnqueuedJob:
    """One call of enqueue() as hooks see it. `metadata` is what the call gives it. `id` is "" until it is written; for
    a duplicate it is that of the other job."""

    task: str
    queue: str
    metadata: Mapping[str, Any]
    id: str = ""
    is_duplicate: bool = False


@dataclass(eq=False, slots=True)
class Enqueue:
    """One call of enqueue(), or the calls of an enqueue_many() that are written together."""

    jobs: list[EnqueuedJob]
    is_bulk: bool = False


@dataclass(eq=False)
class JobRun:
    """One run of a job, as hooks see it. `job` has id, task, queue, attempt, max_attempts, args, kwargs, metadata and
    more of its row; `worker` is a name. The others are known at the end: `outcome` such as "succeeded", "failed",
    "timed out", "snoozed", "waiting", "released", "lost" (to another worker), and the `state` that the job has then."""

    job: Any
    worker: str
    outcome: str = ""
    state: str = ""
    error: BaseException | None = None
    notes: dict[str, Any] = field(default_factory=dict)  # of the hooks

    @property
    def has_failed(self) -> bool:
        """Whether the job has failed and has no attempt left."""
        return self.state == "failed"


Function = TypeVar("Function", bound=Callable[..., Any])
Remove = Callable[[], None]


class Hook(Generic[Function]):
    """The functions that are called at one point, each once."""

    def __init__(self) -> None:
        self.functions: tuple[Function, ...] = ()

    def add(self, function: Function) -> Remove:
        if function not in self.functions:
            self.functions = (*self.functions, function)
        return lambda: self._remove(function)

    def _remove(self, function: Function) -> None:
        self.functions = tuple(each for each in self.functions if each != function)


carriers: Hook[Callable[[Enqueue], Mapping[str, Any] | None]] = Hook()
enqueues: Hook[Callable[[Enqueue], AbstractContextManager[Any]]] = Hook()
runs: Hook[Callable[[JobRun], AbstractContextManager[Any]]] = Hook()
steps: Hook[Callable[[JobRun, str], AbstractContextManager[Any]]] = Hook()
failures: Hook[Callable[[JobRun], None]] = Hook()
stops: Hook[Callable[[float], None]] = Hook()


def carry(function: Callable[[Enqueue], Mapping[str, Any] | None]) -> Remove:
    """Calls `function(enqueue)` before jobs are written, and adds the dict that it returns to the metadata of each job:
    keys that the call has not set itself, as far as they fit into 8 KB. Returns a function that ends this."""
    return carriers.add(function)


def around_enqueue(function: Callable[[Enqueue], AbstractContextManager[Any]]) -> Remove:
    """Enters the context manager `function(enqueue)` around the INSERT or COPY, and around the functions of carry()."""
    return enqueues.add(function)


def around_run(function: Callable[[JobRun], AbstractContextManager[Any]]) -> Remove:
    """Enters the context manager `function(run)` in the thread or asyncio task of each run. It sees no exception of the
    job: when it is left, `run.outcome` and `run.error` say how the run ended. It is not left when the process is
    killed."""
    return runs.add(function)


def around_step(function: Callable[[JobRun, str], AbstractContextManager[Any]]) -> Remove:
    """Enters the context manager `function(run, name)` around each step that is called, but not around one whose result
    an earlier run has stored."""
    return steps.add(function)


def on_failed(function: Callable[[JobRun], None]) -> Remove:
    """Calls `function(run)` after a job has failed with no attempt left and that is committed. It is best effort, as
    `on_failure` is. If the job's worker had died, there was no run here: `outcome` is "crashed" and `error` None."""
    return failures.add(function)


def on_stop(function: Callable[[float], None]) -> Remove:
    """Calls `function(seconds)` when a worker stops, to send within that time what is waiting in memory."""
    return stops.add(function)


# Whether Django's task_finished is being sent here. Its own receiver logs what on_failed() tells.
sends_finished: ContextVar[bool] = ContextVar("pgonly_django_sends_finished", default=False)
# Whether the code that runs here is that of a hook.
_inside: ContextVar[bool] = ContextVar("pgonly_django_instrument", default=False)
_FAILED: Any = object()


def watches_enqueues() -> bool:
    return bool(carriers.functions or enqueues.functions) and not _inside.get()


def guarded(
    function: Callable[..., Any], *facts: Any, shields: bool = False, read: Callable[[Any], Any] | None = None
) -> Any:
    """Returns what `function(*facts)` returns, or what `read` makes of that. What they raise is logged; with `shields`
    even a KeyboardInterrupt."""
    caught = (BaseException,) if shields else (Exception, SystemExit)  # an instrument is not part of the work
    token = _inside.set(True)
    try:
        returned = function(*facts)
        return read(returned) if read else returned
    except caught as error:
        _report(function, error)
    finally:
        _inside.reset(token)
    return _FAILED


def call_all(hook: Hook[Any], *facts: Any, read: Callable[[Any], Any] | None = None) -> list[Any]:
    """Returns what the functions of a hook return, or what `read` makes of that, without those that raised."""
    returned = (guarded(function, *facts, read=read) for function in hook.functions)
    return [each for each in returned if each is not _FAILED]


@contextmanager
def around(hook: Hook[Any], *facts: Any, shields: bool = False) -> Iterator[None]:
    """Enters what the functions of a hook put around a block. It raises what the block raises; what they raise is
    logged."""
    with ExitStack() as stack:
        for function in () if _inside.get() else hook.functions:
            manager = guarded(function, *facts, shields=shields)
            if manager is _FAILED or manager is None:
                continue
            if guarded(_enter, manager, shields=shields) is not _FAILED:
                stack.push(partial(_leave, manager, shields))
        yield


def _enter(manager: Any) -> None:
    type(manager).__enter__(manager)


def _leave(manager: Any, shields: bool, *raised: Any) -> None:
    """Returns nothing, so that it swallows no error of the block."""
    guarded(lambda: type(manager).__exit__(manager, *raised), shields=shields)


def _report(function: Callable[..., Any], error: BaseException) -> None:
    name = getattr(function, "__qualname__", repr(function))
    message = f"The instrument {name} of {getattr(function, '__module__', '')} failed; the work continues"
    emit("instruments.failed", message, level=logging.ERROR, exc_info=error)
