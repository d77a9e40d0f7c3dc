"""The job context: what a task with `takes_context=True` gets as its first argument."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from asgiref.sync import sync_to_async

from pgonly_django.amounts import Amount
from pgonly_django.compat import TaskResult
from pgonly_django.context.calls import CostOf, Spending, StepPauses
from pgonly_django.context.gathering import Gathering, MemberCalls
from pgonly_django.context.iteration import aitems_from, count, items_from, require_order
from pgonly_django.context.leaving import POLL_SECONDS
from pgonly_django.context.memory import Memory
from pgonly_django.context.run import Run
from pgonly_django.database.statement import printable
from pgonly_django.models.job import MEASURED_SINCE
from pgonly_django.plugins import PayingBudget, payer
from pgonly_django.queue import checkpoints, waits
from pgonly_django.queue.enqueue import Members
from pgonly_django.queue.values import to_json

T = TypeVar("T")

LOG_LINE_LIMIT = 1000


class JobContext(Gathering):
    """The first argument of a task with `takes_context=True`: progress, checkpoint, steps, and the request to stop.

    Every write is fenced: after the job belongs to another worker, a write raises LeaseLost. For async tasks each
    method has a twin whose name begins with `a`."""

    def __init__(
        self,
        task_result: TaskResult[Any, Any],
        run: Run,
        memory: Memory,
        budget_name: str | None = None,
        short_pause: Callable[[BaseException], float | None] = lambda _: None,
        members: Callable[[MemberCalls, str], Members] | None = None,
    ) -> None:
        self.task_result, self._run, self._memory, self._members = task_result, run, memory, members
        self._budget_name, self._short_pause, self._calls = budget_name, short_pause, run.calls

    # Known without a query.

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1. Planned stops and snoozes do not count."""
        return self._run.job.attempt

    @property
    def job_id(self) -> str:
        """The id of the job, equal to `result.id`."""
        return self._run.job.id

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The dict that `.using(metadata=...)` gave the job, with the headers of traces. Read-only, and never None."""
        return MappingProxyType(self._run.job.metadata or {})

    @property
    def budget(self) -> PayingBudget | None:
        """The budget of this job, from the task's option `budget`. It pays for the steps that name none."""
        return None if self._budget_name is None else payer().budget(self._budget_name)

    @property
    def checkpoint(self) -> Any:
        """A copy of the value that save_checkpoint() saved last, in this run or an earlier one; None if there is none.
        When a resumed run first reads it, before its loops, the output is set back to what it was when the value was
        saved."""
        return self._memory.checkpoint

    # Progress and log lines: kept here, written by the worker within a second, outside of the job's transaction.

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Reports how far the job is. It sends no statement, is throttled, and is visible within a second. Raises
        NotStorableError for numbers that are not JSON."""
        progress: dict[str, Any] = {"done": done, "total": total, "message": printable(str(message))}
        if (since := self._run.counts_since(done, total)) is not None:
            progress[MEASURED_SINCE] = since
        self._run.progress = to_json(progress, "The progress")
        self._run.needs_report = True

    def log(self, line: str) -> None:
        """Adds a line to the job's log, which keeps the last 100 lines of up to 1,000 characters each."""
        self._run.log(printable(str(line))[:LOG_LINE_LIMIT])

    async def aprogress(self, done: int, total: int | None = None, message: str = "") -> None:
        """See progress()."""
        self.progress(done, total, message)

    async def alog(self, line: str) -> None:
        """See log()."""
        self.log(line)

    def emit(self, chunk: str) -> None:
        """Appends text to the job's output, which `result.output()` reads while the job runs. It sends no statement,
        and the text is visible within a second.

        In the end the output is that of one undisturbed run, however often the job was killed: text that a later run
        repeats is not there twice, and the text of a step or item is removed when that is called again. See
        docs/how-to/progress.md. Raises TypeError for anything that is not text."""
        self._memory.emit(chunk)

    async def aemit(self, chunk: str) -> None:
        """See emit()."""
        self.emit(chunk)

    # What outlives the worker.

    def save_checkpoint(self, value: Any) -> None:
        """Keeps `value` (JSON) for the run that resumes this job. Inside atomic() it commits with the rest. Raises
        NotStorableError for a value that is not JSON, and LeaseLost when the job belongs to another worker."""
        self._memory.save_checkpoint(value)

    async def asave_checkpoint(self, value: Any) -> None:
        """See save_checkpoint()."""
        await sync_to_async(self.save_checkpoint)(value)

    def step(
        self,
        name: str,
        function: Callable[..., T],
        /,
        *args: Any,
        cost: CostOf | None = None,
        budget: PayingBudget | str | None = None,
        reserve: Amount | None = None,
        one_call: bool = False,
        **kwargs: Any,
    ) -> T:
        """Calls `function(*args, **kwargs)` once in the life of the job, and returns its stored result in later runs.

            summary = context.step("summary", ask_model, prompt, cost=0.02)

        Every run gets the result as PostgreSQL keeps JSON, the first run too: a tuple becomes a list, and the keys of a
        dict have PostgreSQL's order. `name` must be unique in the job. If the worker is killed between the call and its
        INSERT, the next run makes the call again: at most the calls under way are repeated. Inside your own atomic()
        the step commits or rolls back with the rows beside it, and a kill or an error before the commit repeats the
        call: make paid calls outside. After an error of the task's `snooze_on` with a short Retry-After, the step waits
        up to 5 s in all and makes the call again.

        `cost`: what the call costs in US dollars: an amount, a Cost, or a function of the result that returns one of
        these. The function may also return Costed(result, cost). The cost is stored once, with the step. `budget`: the
        budget() that pays for the call, or its name; by default that of the job. `reserve`: what the call may cost at
        most; if it exceeds the cap, the job is held before the call. A call that raises counts as `reserve`, unless
        `one_call` says that the function makes one request and nothing else that could fail like one: see reserve() of
        a budget.

        Raises JobStopped, JobCancelled, JobTimedOut or LeaseLost before the call when the run has to end, JobStopped
        also when the process ends (--max-seconds) sooner than a call that takes as long as the longest so far,
        AtomicStepError in a job with atomic=True, and StepNameError for a name that cannot be stored. Raises
        NotStorableError after the call for a result that is not JSON: that fails the job without another attempt, since
        every attempt would pay again.
        """
        checkpoints.check_step_name(name)
        self._begin()
        found, pauses = self._memory.find_step(name), StepPauses(self._short_pause)
        waits.refuse_name_of_wait(name, found)
        while found is None:
            self._leave_unless_time()
            while self._waits_for_lease or self._waits_for_calls or (pauses.is_open and not self.should_stop):
                time.sleep(POLL_SECONDS)
                self._calls.active_at = time.monotonic()
            self._check()
            with pauses.after_error(), self._memory.call(name):
                spending = Spending(name, cost, budget or self._budget_name, reserve, one_call)
                with spending.reservation:
                    found = self._memory.keep_step(name, function(*args, **kwargs), spending)
        result: T = json.loads(found)
        return result

    async def astep(
        self,
        name: str,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        cost: CostOf | None = None,
        budget: PayingBudget | str | None = None,
        reserve: Amount | None = None,
        one_call: bool = False,
        **kwargs: Any,
    ) -> T:
        """See step(); `function` is a coroutine function."""
        checkpoints.check_step_name(name)
        await self._abegin()
        found, pauses = await sync_to_async(self._memory.find_step)(name), StepPauses(self._short_pause)
        waits.refuse_name_of_wait(name, found)
        while found is None:
            self._leave_unless_time()
            while self._waits_for_lease or self._waits_for_calls or (pauses.is_open and not self.should_stop):
                await asyncio.sleep(POLL_SECONDS)
                self._calls.active_at = time.monotonic()
            await self._acheck()
            with pauses.after_error(), self._memory.call(name):
                spending = Spending(name, cost, budget or self._budget_name, reserve, one_call)
                async with spending.reservation:
                    value = await function(*args, **kwargs)
                    found = await sync_to_async(self._memory.keep_step)(name, value, spending)
        result: T = json.loads(found)
        return result

    def iterate(self, items: Iterable[T], *, total: int | None = None, name: str = "items") -> Iterator[T]:
        """Yields the items that are not yet done, and takes care of progress, position, stop and cancel.

            for paper in context.iterate(Paper.objects.filter(project=7)):
                screen(paper)

        A later run resumes by position, so `items` must come in the same order in every run. A queryset without an
        order is ordered by its primary key; every other one, but no union, gets the key as last column of its order.
        By the primary key alone the rows are read 1,000 at a time, and a run continues after the last one done,
        whatever the loop has deleted or changed; otherwise all are read and counted at once, as always for joins that
        repeat rows, window functions, distinct("column"), unions, raw queries, keys other than numbers, text and UUIDs,
        and values() without the primary key. The position is saved once a second and at every end of a run; an item
        whose loop body had begun comes again. Inside atomic() the position commits or rolls back with the rest. With
        --max-seconds no item begins that would outlast the process, judged by the longest so far.

        `total`: the number of items; it is counted by default. `name` tells several loops of a job apart. Raises
        LoopNameError when this run has begun a loop of that name already, even one that a break has left, unless its
        transaction was rolled back. Between two items it raises what step() raises. Raises TypeError for a set and for
        a raw query without ORDER BY, and ValueError for a queryset in random order, or one that has no order and can be
        given none.
        """
        require_order(items)
        at = self._memory.begin_loop(name)
        total = total if total is not None else count(items, at)
        self.progress(at.done, total)
        longest_seconds = 0.0
        for item, reached in items_from(items, at, self._memory.read):
            self._leave_unless_time(longest_seconds)
            self._check()
            began = time.monotonic()
            yield item
            longest_seconds = max(longest_seconds, time.monotonic() - began)
            is_time = self._memory.advance_loop(name, reached)
            self.progress(reached.done, total)
            if is_time:
                self.flush()
        self._memory.end_loop(name)
        self.flush()

    async def aiterate(
        self, items: Iterable[T] | AsyncIterator[T], *, total: int | None = None, name: str = "items"
    ) -> AsyncIterator[T]:
        """See iterate(). It takes iterables, async iterables and querysets."""
        require_order(items)
        at = await sync_to_async(self._memory.begin_loop)(name)
        total = total if total is not None else await sync_to_async(count)(items, at)
        self.progress(at.done, total)
        longest_seconds = 0.0
        async for item, reached in aitems_from(items, at, self._memory.read):
            self._leave_unless_time(longest_seconds)
            await self._acheck()
            began = time.monotonic()
            yield item
            longest_seconds = max(longest_seconds, time.monotonic() - began)
            is_time = self._memory.advance_loop(name, reached)
            self.progress(reached.done, total)
            if is_time:
                await sync_to_async(self.flush)()
        self._memory.end_loop(name)
        await sync_to_async(self.flush)()

    def flush(self) -> None:
        """Writes the loop positions that are not saved yet, as part of the open transaction."""
        self._memory.flush()
