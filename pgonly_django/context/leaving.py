"""How a job leaves its run: because the run has to end, or because the job waits for an event or a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn

from asgiref.sync import sync_to_async

from pgonly_django.compat import TaskContext
from pgonly_django.context.calls import Calls
from pgonly_django.context.memory import Memory
from pgonly_django.context.pending_wait import PendingWait
from pgonly_django.context.run import Run
from pgonly_django.exceptions import JobWaiting, NotStoppingError
from pgonly_django.queue import waits

POLL_SECONDS = 0.1
# A run leaves to wait after this number of pauses in which no step was in progress. Between two steps of a branch there
# is less, and a job that has only waits holds its slot no longer. On a slow machine, too, code that could run has its
# turn in each pause.
IDLE_PAUSES = 2
# Where nobody awaits the tasks that wait, the job may go on without them, or be told of their answers in another way.
LONGEST_PAUSES = 300


class Leaving(TaskContext):  # type: ignore[type-arg] # generic in the stubs only
    """The part of the job context by which a job leaves its run."""

    # Django's TaskContext is frozen for its own fields; the frozen setter breaks in subclasses with attributes.
    __setattr__ = object.__setattr__

    _run: Run
    _memory: Memory
    _calls: Calls

    @property
    def should_stop(self) -> bool:
        """Whether the run has to end, because the worker stops, or because the job was cancelled, timed out or lost its
        lease. Save your work and call stop(): a job that returns instead has succeeded, even if work is left."""
        return self._run.interruption is not None

    def stop(self) -> NoReturn:
        """Ends a run that was asked to end. Raises JobStopped (the job goes back to its queue with its checkpoint, and
        uses up no attempt), JobCancelled, JobTimedOut or LeaseLost, also in async tasks. Raises NotStoppingError while
        should_stop is False."""
        self._check()
        raise NotStoppingError

    @property
    def time_left(self) -> float | None:
        """The number of seconds until max_runtime or the worker's grace period ends; None without such a limit. A
        worker with --max-seconds has an end from its start."""
        limits = [limit for limit in (self._run.deadline, self._run.stop_until) if limit is not None]
        return max(min(limits) - time.monotonic(), 0.0) if limits else None

    # Waits.

    def sleep(self, name: str, delay: timedelta | float) -> None:
        """Lets the job wait for `delay`, a timedelta or seconds, without a thread, a connection or an attempt.

            context.sleep("cool down", timedelta(days=3))

        JobWaiting ends the run, and a later run continues from the job's steps, loops and checkpoint. `name` is unique
        in the job, as that of a step; the time is counted from the first run that comes here. A `finally` is executed
        in each run. Raises what step() raises before the call, and CannotWaitError inside atomic() and in a job with
        atomic=True."""
        self._wait(waits.for_time(name, delay))

    async def asleep(self, name: str, delay: timedelta | float) -> None:
        """See sleep()."""
        await self._await(waits.for_time(name, delay))

    def wait_for_event(
        self,
        key: str,
        timeout: timedelta | float | None = None,
        *,
        choices: Sequence[str] = (),
        question: str = "",
        keep_concurrency_key: bool = False,
    ) -> Any:
        """Lets the job wait until send_event() has answered `key`, and returns the payload. Waits as sleep() does.

            answer = context.wait_for_event("approve:7", timeout=timedelta(days=3))

        An answer that came before counts, too. After `timeout`, a timedelta or seconds, it raises EventTimeout. Answer
        or timeout is stored, and each later run gets the same. `choices`: the answers that a person may choose from,
        and `question`: what the person is asked. `keep_concurrency_key`: the job keeps its place among the jobs with
        its concurrency key until it runs again; by default another one may run while it waits. Raises what sleep()
        raises."""
        wait = waits.for_event(key, timeout, choices, question, keeps_key=keep_concurrency_key)
        return waits.payload_in(self._wait(wait), key)

    async def await_for_event(
        self,
        key: str,
        timeout: timedelta | float | None = None,  # noqa: ASYNC109 - of the job, not of the call
        *,
        choices: Sequence[str] = (),
        question: str = "",
        keep_concurrency_key: bool = False,
    ) -> Any:
        """See wait_for_event()."""
        wait = waits.for_event(key, timeout, choices, question, keeps_key=keep_concurrency_key)
        return waits.payload_in(await self._await(wait), key)

    def wait_for_first(
        self, keys: Mapping[str, waits.Asked], timeout: timedelta | float | None = None
    ) -> tuple[str, Any]:
        """Lets the job wait for several events, and returns the key of the first one and its payload.

            key, answer = context.wait_for_first({"lawyer:7": None, "cfo:7": {"choices": ["yes", "no"]}})

        Of each key: None, or a dict with the `choices` and the `question` of wait_for_event(), or a timedelta or
        seconds. The latter makes the key a time, as of sleep(), whose payload is None. The answer is stored once, and
        each later run gets the same. The other keys are withdrawn with it: nobody is asked for them any more. After
        `timeout` it raises EventTimeout. Raises what wait_for_event() raises."""
        first = waits.for_first(keys, timeout)
        return waits.first_in(self._wait(*first), first)

    async def await_for_first(
        self,
        keys: Mapping[str, waits.Asked],
        timeout: timedelta | float | None = None,  # noqa: ASYNC109 - of the job, not of the call
    ) -> tuple[str, Any]:
        """See wait_for_first()."""
        first = waits.for_first(keys, timeout)
        return waits.first_in(await self._await(*first), first)

    def _wait(self, *of: waits.NewWait) -> str:
        """Returns the first answer to these waits, as JSON text. While other threads or asyncio tasks of the job
        continue, this waits for the answer; then it raises JobWaiting."""
        self._begin()
        pending = self._run.begin_wait(of)
        try:
            look = self._memory.look_for(pending)
            while look.answer is None:
                pending.note_look(look.seconds_left)
                for pause in self._pauses_of(pending):
                    time.sleep(pause)
                self._cancel_first_task()
                self._check()
                if self._run.is_over:
                    raise JobWaiting  # noqa: TRY301 - as _check() does
                look = self._memory.look_again(pending)
        except BaseException:
            if self._goes_on_without(pending):
                self._memory.withdraw(pending)
            raise
        self._run.end_wait(pending)
        return look.answer

    async def _await(self, *of: waits.NewWait) -> str:
        """See _wait(). An async job leaves by the cancellation of its first task: others may collect what is raised in
        them as a result, as asyncio.wait() does."""
        await self._abegin()
        pending = self._run.begin_wait(of)
        try:
            look = await sync_to_async(self._memory.look_for)(pending)
            while look.answer is None:
                pending.note_look(look.seconds_left)
                for pause in self._pauses_of(pending):
                    await asyncio.sleep(pause)
                if self._cancel_first_task():
                    raise asyncio.CancelledError  # noqa: TRY301 - as from outside
                await self._acheck()
                look = await sync_to_async(self._memory.look_again)(pending)
        except GeneratorExit:  # nothing can be awaited now; the end of the job withdraws it
            self._run.end_wait(pending)
            raise
        except BaseException:
            if self._goes_on_without(pending):
                withdrawal = sync_to_async(self._memory.withdraw)(pending)
                await asyncio.shield(asyncio.ensure_future(withdrawal))  # anyio cancels at each await
            raise
        self._run.end_wait(pending)
        return look.answer

    def _pauses_of(self, pending: PendingWait) -> Iterator[float]:
        """Yields pauses until it is time to look for the answer again, or the run has to end and may."""
        while not self._run.is_over:
            if self._run.interruption is None:
                if pending.look_at <= time.monotonic():
                    return
                if self._is_idle(pending):
                    self._run.leave_to_wait()
            if self._run.interruption is not None and not self._waits_for_calls:
                return
            yield POLL_SECONDS
            pending.note_pause(self._calls.active_at)

    def _is_idle(self, pending: PendingWait) -> bool:
        """Returns whether nothing in the run can continue: no step is in progress, none was for a moment, and a wait is
        awaited. A job that has one thread or asyncio task needs no moment."""
        if self._others_work or self._calls.are_going_on:
            return False
        if not self._calls.are_in_branches:
            return True
        are_awaited = any(wait.is_awaited for wait in self._run.waits)
        if pending.pauses < (IDLE_PAUSES if are_awaited else LONGEST_PAUSES):
            return False
        soon = time.monotonic() + IDLE_PAUSES * POLL_SECONDS
        return all(wait.until > soon for wait in self._run.waits)

    def _cancel_first_task(self) -> bool:
        """Cancels the first task of an async job that leaves its run to wait. Returns whether this is another task."""
        return self._run.interruption is JobWaiting and self._run.interrupter.cancel_unless_here()

    def _goes_on_without(self, pending: PendingWait) -> bool:
        """Returns whether the run continues after a wait whose await was cancelled: then it withdraws the wait."""
        if self._run.interruption is not None or self._run.is_over:
            return False
        self._run.end_wait(pending)
        return pending.has_begun

    @property
    def _waits_for_lease(self) -> bool:
        """Whether a paid call has to wait for the next heartbeat: the job may be running elsewhere."""
        return self._run.lease_in_doubt and not self.should_stop

    @property
    def _waits_for_calls(self) -> bool:
        """Whether the run has to end, and others of its threads or asyncio tasks are in the middle of a paid call: the
        interruption of one would cut them off."""
        is_leaving = self._run.is_in_grace or self._run.interruption is JobWaiting
        return is_leaving and self._others_work

    @property
    def _others_work(self) -> bool:
        """Whether other threads or asyncio tasks of the job are in the middle of a call that does not wait itself."""
        return self._calls.others_under_way([wait.inside for wait in self._run.waits])

    def _leave_unless_time(self, seconds: float | None = None) -> None:
        """Makes the run end if its process ends before something is done that takes this number of seconds; None: as
        long as the longest call."""
        if self._calls.lacks_time(seconds):
            self._run.leaves_early = True

    def _begin(self) -> None:
        """Called before a step or a wait. Raises the interruption of a run that has to end."""
        self._note_branch()
        while self._waits_for_calls:
            time.sleep(POLL_SECONDS)
        self._check()

    async def _abegin(self) -> None:
        """See _begin()."""
        self._note_branch()
        while self._waits_for_calls:  # noqa: ASYNC110 - they may be in threads
            await asyncio.sleep(POLL_SECONDS)
        await self._acheck()

    def _note_branch(self) -> None:
        self._calls.active_at = time.monotonic()
        if not self._run.interrupter.is_here:
            self._calls.are_in_branches = True

    def _check(self) -> None:
        """Raises the interruption of a run that has to end, after its loop positions are saved."""
        if (interruption := self._run.interruption) is not None:
            self._run.context_raised = True
            self._memory.flush_or_warn()
            raise interruption

    async def _acheck(self) -> None:
        if self.should_stop:
            await sync_to_async(self._check)()
