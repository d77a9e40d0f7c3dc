"""Assertions about the calls that a test has enqueued: they read the rows of jobs, whatever became of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pgonly_django.compat import Task
from pgonly_django.exceptions import NotStorableError, WrongArgumentsError
from pgonly_django.models import Job
from pgonly_django.queue.enqueue import aware
from pgonly_django.queue.values import to_json
from pgonly_django.tasks.arguments import CallSignature, call_signature
from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.testing.backends import NoRowsError, check_queue, databases_of, postgres_backends

# The default of `run_after`: any. None says that the call had none.
ANY_TIME: Any = ...
TOLERANCE = timedelta(seconds=1)
SHOWN, SHOWN_CHARACTERS = 20, 200


def enqueued_jobs(task: Task[Any, Any] | None = None, *, queue: str | None = None) -> list[Job]:
    """Returns the rows of all jobs that were enqueued, of this task and in this queue, in order, with the finished
    ones. Raises WrongArgumentsError for a queue that does not exist."""
    if task is not None:
        _check_task(task)
    _check_queue("enqueued_jobs()", queue, task)
    found: list[Job] = []
    for database in databases_of(_backends(task)):
        rows = Job.objects.using(database).order_by("pk")
        rows = rows if task is None else rows.filter(task=task.module_path)
        found += rows if queue is None else rows.filter(queue=queue)
    return sorted(found, key=lambda job: job.pk)


def assert_enqueued(
    task: Task[Any, Any],
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    queue: str | None = None,
    run_after: datetime | timedelta | None = ANY_TIME,
    count: int | None = None,
) -> list[Job]:
    """Asserts that the test has enqueued this call of `task`: at least once, or `count` times. Returns the rows of the
    jobs.

        assert_enqueued(send_invoice, [42], run_after=timedelta(hours=1))

    Without `args` and `kwargs` any call counts; with them it is the call that gives the function these arguments, by
    place or by name, and defaults where none are given. True and False are not numbers; 1 and 1.0 are the same number.
    unittest.mock.ANY stands for any value. `run_after`: a time, or a timedelta after the call, give or take a second;
    None: the call had none. Raises WrongArgumentsError for arguments that the task cannot take, and for a queue that
    does not exist.
    """
    __tracebackhide__ = True
    wanted = _ExpectedCall(task, args, kwargs, queue, run_after)
    return _counted(wanted, enqueued_jobs(), count)


def assert_not_enqueued(
    task: Task[Any, Any] | None = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    queue: str | None = None,
) -> None:
    """Asserts that the test has not enqueued this call, see assert_enqueued(), or nothing without a task."""
    __tracebackhide__ = True
    if task is not None:
        _counted(_ExpectedCall(task, args, kwargs, queue), enqueued_jobs(), 0)
        return
    if args is not None or kwargs is not None:
        raise WrongArgumentsError("assert_not_enqueued()", "args and kwargs need the task")
    if jobs := enqueued_jobs(queue=queue):
        raise AssertionError(f"Nothing should have been enqueued{_in(queue)}. {_enqueued(jobs)}")


@contextmanager
def assert_enqueues(
    task: Task[Any, Any],
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    queue: str | None = None,
    run_after: datetime | timedelta | None = ANY_TIME,
    count: int | None = None,
) -> Iterator[list[Job]]:
    """Asserts what assert_enqueued() does, about the calls that the block enqueues; count=0 means none. At the end of
    the block the list has the rows."""
    __tracebackhide__ = True
    wanted = _ExpectedCall(task, args, kwargs, queue, run_after)
    before = {job.pk for job in enqueued_jobs()}
    found: list[Job] = []
    yield found
    found += _counted(wanted, [job for job in enqueued_jobs() if job.pk not in before], count)


@dataclass(frozen=True)
class _ExpectedCall:
    """A call as a test describes it. Raises WrongArgumentsError for one that enqueue() would refuse."""

    task: Any
    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    queue: str | None = None
    run_after: datetime | timedelta | None = ANY_TIME
    arguments: dict[str, Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        _check_task(self.task)
        _check_queue("assert_enqueued()", self.queue, self.task)
        if isinstance(self.args, str) or not isinstance(self.args, Sequence | None):
            reason = f"args must be a list or a tuple, got {self.args!r}"
            raise WrongArgumentsError("assert_enqueued()", reason)
        if self.args is not None or self.kwargs is not None:
            args, kwargs = _as_json(self.args or []), _as_json(self.kwargs or {})
            self._signature.check(args, kwargs)
            object.__setattr__(self, "arguments", _as_json(self._signature.arguments(args, kwargs)))

    @property
    def _signature(self) -> CallSignature:
        return call_signature(self.task.func, self.task.takes_context)

    def is_of(self, job: Job) -> bool:
        if job.task != self.task.module_path or (self.queue is not None and job.queue != self.queue):
            return False
        return self._has_time(job) and self._has_arguments(job)

    def _has_arguments(self, job: Job) -> bool:
        if self.arguments is None:
            return True
        try:
            arguments = self._signature.arguments(job.args, job.kwargs)
        except TypeError:  # the function takes other arguments by now
            return False
        return _is_same(self.arguments, _as_json(arguments))

    def _has_time(self, job: Job) -> bool:
        if self.run_after is ANY_TIME:
            return True
        after = self.run_after
        if after is None or job.run_at is None:
            return after is job.run_at
        wanted = job.enqueued_at + after if isinstance(after, timedelta) else after
        return abs(aware(job.run_at) - aware(wanted)) <= TOLERANCE

    def __str__(self) -> str:
        call: str = self.task.module_path
        if self.arguments is not None:
            call = _call(call, self.args or (), self.kwargs or {})
        due = "without run_after" if self.run_after is None else f"with run_after {self.run_after}"
        return f"{call}{_in(self.queue)}" + ("" if self.run_after is ANY_TIME else f" {due}")


def _counted(wanted: _ExpectedCall, jobs: list[Job], count: int | None) -> list[Job]:
    __tracebackhide__ = True
    found = [job for job in jobs if wanted.is_of(job)]
    if len(found) == count or (count is None and found):
        return found
    was = f"was enqueued {times(len(found))}" if found else "was not enqueued"
    rather = "" if not count else f", not {times(count)}" if found else f", and was to be {times(count)}"
    raise AssertionError(f"{wanted} {was}{rather}. {_enqueued(jobs)}")


def times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def listed(heading: str, lines: Sequence[str], nothing: str) -> str:
    if not lines:
        return nothing
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([heading, *(f"  {line}" for line in lines[:SHOWN]), *more])


def _enqueued(jobs: list[Job]) -> str:
    return listed("Enqueued were:", [*map(_line, jobs)], "Nothing was enqueued.")


def _line(job: Job) -> str:
    call = _call(job.task, job.args, job.kwargs)
    call = call if len(call) <= SHOWN_CHARACTERS else f"{call[:SHOWN_CHARACTERS]}..."
    due = "" if job.run_at is None else f", run_after {job.run_at}"
    return f"{call}{_in(job.queue)}{due}: {job.state}"


def _call(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    given = [repr(each) for each in args]
    given += [f"{name}={value!r}" for name, value in kwargs.items()]
    return f"{task}({', '.join(given)})"


def _in(queue: str | None) -> str:
    return "" if queue is None else f" in queue {queue!r}"


def _backends(task: Task[Any, Any] | None) -> list[PostgresBackend]:
    """Returns the backend of the task, or else all. Raises NoRowsError where its jobs have no rows."""
    found = postgres_backends()
    if task is None:
        return found
    mine = [backend for backend in found if backend.alias == task.backend]
    if not mine:
        raise NoRowsError(
            f"TASKS[{task.backend!r}] of {task.module_path} is not a PostgresBackend: it keeps no rows."
        )
    return mine


def _check_task(task: Any) -> None:
    if not isinstance(task, Task):
        raise WrongArgumentsError("assert_enqueued()", f"it needs a task, as @task makes it, got {task!r}")


def _check_queue(call: str, queue: str | None, task: Task[Any, Any] | None) -> None:
    if queue is not None:
        backends = _backends(task)
        check_queue(call, queue, backends, databases_of(backends))


def _is_same(wanted: Any, got: Any) -> bool:
    """Compares as == does, except that Python's True == 1."""
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(_is_same, wanted, got))
    if isinstance(wanted, dict) and isinstance(got, dict):
        return wanted.keys() == got.keys() and all(_is_same(wanted[name], got[name]) for name in wanted)
    is_plain = isinstance(wanted, bool | int | float)
    return bool(wanted == got) and not (is_plain and isinstance(wanted, bool) != isinstance(got, bool))


def _as_json(value: Any) -> Any:
    """Returns the value as a row has it: tuples as lists, keys as text. What is not JSON stays, such as mock.ANY."""
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in value.items()}
    try:
        return json.loads(to_json(value, "An argument"))
    except NotStorableError:
        return value
