"""How a job leaves its run: because that has to end, or because the job waits for an event or a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NoReturn

from asgiref.sync import sync_to_async

from pgonly_django.compat import TaskContext
from pgonly_django.context.calls import Calls
from pgonly_django.context.memory import Memory
from pgonly_django.context.run import Run
from pgonly_django.exceptions import JobWaiting, NotStoppingError
from pgonly_django.queue import waits

POLL_SECONDS = 0.1


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

        An answer that came before counts, too. After `timeout`, a timedelta or seconds, it raises EventTimeout. Either
        is stored, and each later run hears the same. `choices`: the answers that a person may choose from, and
        `question`: what the person is asked. `keep_concurrency_key`: the job keeps its place among the jobs with its
        concurrency key until it runs again; by default another one may run while it waits. Raises what sleep()
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

    def _wait(self, wait: waits.NewWait) -> str:
        """Returns the answer, as JSON text, or raises JobWaiting."""
        while self._waits_for_calls:
            time.sleep(POLL_SECONDS)
        self._check()
        look = self._memory.look_for(wait)
        if look.answer is None:
            self._run.wait(wait.name, look.seconds_left)
            while self._waits_for_calls:
                time.sleep(POLL_SECONDS)
            self.stop()
        return look.answer

    async def _await(self, wait: waits.NewWait) -> str:
        """See _wait()."""
        while self._waits_for_calls:  # noqa: ASYNC110 - they may be in threads
            await asyncio.sleep(POLL_SECONDS)
        await self._acheck()
        look = await sync_to_async(self._memory.look_for)(wait)
        if look.answer is None:
            self._run.wait(wait.name, look.seconds_left)
            while self._waits_for_calls:  # noqa: ASYNC110 - as above
                await asyncio.sleep(POLL_SECONDS)
            await self._acheck()
            self.stop()
        return look.answer

    @property
    def _waits_for_lease(self) -> bool:
        """Whether a paid call has to wait for the next heartbeat: the job may be running elsewhere."""
        return self._run.lease_in_doubt and not self.should_stop

    @property
    def _waits_for_calls(self) -> bool:
        """Whether the run has to end, and others of its threads or asyncio tasks are in the middle of a paid call: the
        interruption of one would cut them off."""
        is_leaving = self._run.is_in_grace or self._run.interruption is JobWaiting
        return is_leaving and self._calls.others_under_way

    def _leave_unless_time(self, seconds: float | None = None) -> None:
        """Makes the run end if its process ends before something is done that takes this number of seconds; None: as
        long as the longest call."""
        if self._calls.lacks_time(seconds):
            self._run.leaves_early = True

    def _check(self) -> None:
        """Raises the interruption of a run that has to end, after its loop positions are saved."""
        if (interruption := self._run.interruption) is not None:
            self._run.context_raised = True
            self._memory.flush_or_warn()
            raise interruption

    async def _acheck(self) -> None:
        if self.should_stop:
            await sync_to_async(self._check)()
