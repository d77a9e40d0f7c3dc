"""The job's own face: what a task with `takes_context=True` gets as its first argument."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError

from pgonly_django.compat import TaskContext, TaskResult
from pgonly_django.context.iteration import aiterate_from, count, iterate_from
from pgonly_django.context.memory import Memory, watched
from pgonly_django.context.retry_while_down import retry_while_down
from pgonly_django.context.run import Run
from pgonly_django.database.libpq import printable
from pgonly_django.events import emit
from pgonly_django.exceptions import LeaseLost, NotStoppingError
from pgonly_django.queue import checkpoints
from pgonly_django.queue.values import to_json

P = ParamSpec("P")
T = TypeVar("T")

SAVE_EVERY_SECONDS = 1.0
DOUBT_POLL_SECONDS = 0.1
LOG_LINE_LIMIT = 1000


class JobContext(TaskContext):  # type: ignore[type-arg] # generic in the stubs only
    """Progress, checkpoint, steps and the wish to stop of one running job.

    Every write is fenced: once the job belongs to another worker, a write raises LeaseLost. The methods with a
    leading `a` are the same for async tasks.
    """

    # Django's TaskContext is frozen for its own fields; the frozen setter breaks in subclasses with attributes.
    __setattr__ = object.__setattr__

    def __init__(
        self, task_result: TaskResult[Any, Any], run: Run, saved: checkpoints.Saved | None = None
    ) -> None:
        self.task_result = task_result
        self._run = run
        self._memory = Memory(run.alias, saved or checkpoints.Saved(), self._prove_itself)
        self._saved_at = time.monotonic()

    # What is known without a query.

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1. Planned stops and snoozes do not count."""
        return self._run.job.attempt

    @property
    def job_id(self) -> str:
        return self._run.job.id

    @property
    def checkpoint(self) -> Any:
        """A copy of what save_checkpoint() saved last, in this run or an earlier one; None when nothing was."""
        return json.loads(self._memory.state.saved.value)

    @property
    def should_stop(self) -> bool:
        """Whether to save and then call stop(): the worker stops, the job was cancelled, timed out or lost its lease.

        A job that returns instead has succeeded, whatever is left to do.
        """
        return self._run.interruption is not None

    def stop(self) -> NoReturn:
        """Leave a run that was asked to end: raises JobStopped (the job goes back with its checkpoint, at no cost),
        JobCancelled, JobTimedOut or LeaseLost. The same in async tasks. Raises NotStoppingError before that.
        """
        self._check()
        raise NotStoppingError

    @property
    def time_left(self) -> float | None:
        """Seconds until max_runtime, or the end of the worker's grace, is over. None: no limit."""
        limits = [limit for limit in (self._run.deadline, self._run.stop_until) if limit is not None]
        return max(min(limits) - time.monotonic(), 0.0) if limits else None

    # Progress and log lines: kept here, written by the worker within a second, out of the job's transaction.

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Say how far the job is. Costs no statement here; throttled, and visible within a second.

        Raises NotStorableError for numbers that are no JSON.
        """
        said = {"done": done, "total": total, "message": printable(str(message))}
        self._run.progress = to_json(said, "The progress")
        self._run.needs_report = True

    def log(self, line: str) -> None:
        """Add a line to the job's log (the last 100 are kept, 1,000 characters each)."""
        self._run.log(printable(str(line))[:LOG_LINE_LIMIT])

    async def aprogress(self, done: int, total: int | None = None, message: str = "") -> None:
        """See progress()."""
        self.progress(done, total, message)

    async def alog(self, line: str) -> None:
        """See log()."""
        self.log(line)

    # What survives the death of the worker.

    def save_checkpoint(self, value: Any) -> None:
        """Keep `value` (JSON) for the run that resumes this job; commits with the surrounding atomic().

        Raises NotStorableError for what is not JSON, LeaseLost when the job belongs to another worker.
        """
        saved = self._memory.writable
        saved.value = to_json(value, "The checkpoint")
        self._write(saved)

    async def asave_checkpoint(self, value: Any) -> None:
        """See save_checkpoint()."""
        await sync_to_async(self.save_checkpoint)(value)

    def step(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args, **kwargs)`, once in the life of the job: later runs get the stored result.

        The result comes back as PostgreSQL keeps JSON, the same in every run (a tuple as a list, the keys of a
        dict in an order of its own). `name` must be unique in the job. Killed between the call and its INSERT,
        the call is made again: at most the calls in flight are repeated.
        Raises JobStopped, JobCancelled, JobTimedOut or LeaseLost before the call when the run has to end,
        StepNameError for a name that cannot be stored, and NotStorableError after it for a result that is not
        JSON: that fails the job for good, since every attempt would pay again.
        """
        found = self._find_step(name)
        if found is None:
            self._wait_for_lease()
            found = self._keep_step(name, function(*args, **kwargs))
        result: T = json.loads(found)
        return result

    async def astep(
        self, name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See step(); `function` is a coroutine function."""
        found = await sync_to_async(self._find_step)(name)
        if found is None:
            await self._await_lease()
            value = await function(*args, **kwargs)
            found = await sync_to_async(self._keep_step)(name, value)
        result: T = json.loads(found)
        return result

    def iterate(self, items: Iterable[T], *, total: int | None = None, name: str = "items") -> Iterator[T]:
        """The items not yet done, with progress, checkpoint, stop and cancel in one loop.

        Resumes by position, so `items` must come in the same order in every run. The position is saved once a
        second and at every end; an item whose loop body had begun comes again. Inside atomic() the position
        commits or rolls back with the rest. `name` tells several loops of a job apart: LoopNameError when this run
        has begun a loop of that name already, even one that was left by a break; a transaction that is rolled back
        gives the name back as well. Raises as step() does, between two items.
        """
        done, watched_connections = self._begin_loop(name)
        total = total if total is not None else count(items)
        self.progress(done, total)
        for item in iterate_from(items, done):
            self._check()
            yield item
            done += 1
            if self._advanced(name, done, total, watched_connections):
                self.flush()
        self.flush()

    async def aiterate(
        self, items: Iterable[T] | AsyncIterator[T], *, total: int | None = None, name: str = "items"
    ) -> AsyncIterator[T]:
        """See iterate(); takes iterables, async iterables and querysets."""
        done, watched_connections = await sync_to_async(self._begin_loop)(name)
        total = total if total is not None else await sync_to_async(count)(items)
        self.progress(done, total)
        async for item in aiterate_from(items, done):
            await sync_to_async(self._check)() if self.should_stop else None
            yield item
            done += 1
            if self._advanced(name, done, total, watched_connections):
                await sync_to_async(self.flush)()
        await sync_to_async(self.flush)()

    def flush(self) -> None:
        """Write the loop positions that are not saved yet, as part of the transaction that is open."""
        self._saved_at = time.monotonic()
        if self._is_unsaved:
            self._write(self._memory.writable)

    # For the worker, at the end of the run.

    def close(self) -> None:
        """The run is over: take back what it reached in transactions that it left open. They will be rolled back."""
        self._memory.end()

    def close_failed(self) -> None:
        """See close(). The run has failed: also write the loop positions that were reached outside of its
        transactions. Where that cannot be written, the next run repeats a few items; the outcome is the same."""
        self.close()
        if self._is_unsaved:
            self._write_or_warn()

    async def aclose_failed(self) -> None:
        """See close_failed()."""
        self.close()
        if self._is_unsaved:
            await sync_to_async(self._write_or_warn)()

    # The parts.

    @property
    def _is_unsaved(self) -> bool:
        return self._memory.is_unsaved and not self._run.lease_lost

    def _begin_loop(self, name: str) -> tuple[int, Sequence[Any]]:
        """How many of its items are done, and the connections whose transactions its loop body may be in."""
        return self._memory.begin(name), watched()

    def _advanced(self, name: str, done: int, total: int | None, watched_connections: Sequence[Any]) -> bool:
        """Note it; whether it is time to save."""
        self._memory.advance(name, done, watched_connections)
        self.progress(done, total)
        return time.monotonic() - self._saved_at >= SAVE_EVERY_SECONDS

    def _write(self, saved: checkpoints.Saved) -> None:
        job, positions = self._run.job, json.dumps(saved.positions)
        retry_while_down(
            self._run, checkpoints.save_checkpoint, job.id, job.lease_epoch, saved.value, positions
        )
        self._saved_at = time.monotonic()
        self._memory.note_written(saved)

    def _write_or_warn(self) -> None:
        try:
            self._write(self._memory.writable)
        except DatabaseError as error:
            message = f"Could not save a loop's position: {error}"
            emit("worker.position_unsaved", message, level=logging.WARNING)

    def _prove_itself(self) -> None:
        """Progress that lasts: the job is no suspect of killing its worker any more. One that saves in each run
        what it saved before may still be the one."""
        run, memory = self._run, self._memory
        if run.job.crashes and not run.saved_something_new and memory.has_progress:
            run.saved_something_new = run.needs_report = True

    def _find_step(self, name: str) -> str | None:
        checkpoints.check_step_name(name)
        self._check()
        return retry_while_down(
            self._run, checkpoints.find_step, self._run.job.id, self._run.job.lease_epoch, name
        )

    def _keep_step(self, name: str, value: Any) -> str:
        job, text = self._run.job, to_json(value, f"The result of step {name!r}")
        kept, is_new = retry_while_down(self._run, checkpoints.save_step, job.id, job.lease_epoch, name, text)
        if is_new:
            self._memory.note_new_step()
        return kept

    def _check(self) -> None:
        interrupt = self._run.interruption
        if interrupt is None:
            return
        self._run.context_raised = True
        if interrupt is not LeaseLost and self._memory.is_unsaved:
            self._write_or_warn()
        raise interrupt

    def _wait_for_lease(self) -> None:
        """No paid call while the job may be running elsewhere: wait for the heartbeat's word."""
        while self._run.lease_in_doubt and not self.should_stop:
            time.sleep(DOUBT_POLL_SECONDS)
        self._check()

    async def _await_lease(self) -> None:
        while self._run.lease_in_doubt and not self.should_stop:  # noqa: ASYNC110 - told by a thread
            await asyncio.sleep(DOUBT_POLL_SECONDS)
        if self.should_stop:
            await sync_to_async(self._check)()
