"""Looks after running jobs: deadlines, interruptions that a job ignores, claimed jobs that no slot starts.

Finds out which of the running jobs somebody wants cancelled.
"""

import logging
import time
from collections.abc import Iterator

from pgonly_django.context.run import Run
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.exceptions import LeaseLost
from pgonly_django.queue.liveness import cancel_requested
from pgonly_django.worker import ending
from pgonly_django.worker.claiming import Prefetch
from pgonly_django.worker.connection import JobsListener
from pgonly_django.worker.ending import Ended
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.slots import Slots
from pgonly_django.worker.timers import NEVER, REFUSED_SECONDS

INTERVAL_SECONDS = 0.25
# A job that was cancelled, or ran too long, may leave by itself for this long; then an exception is raised in it.
COOPERATIVE_SECONDS = 1.0
# A job that was prefetched and still waits for a slot goes back.
UNSTARTED_SECONDS = 1.0


class Watchdog:
    def __init__(self, in_flight: InFlight, slots: Slots, prefetch: Prefetch, grace_seconds: float) -> None:
        self.in_flight = in_flight
        self.slots = slots
        self.prefetch = prefetch
        self.grace_seconds = grace_seconds
        self._next_run = 0.0

    @property
    def next_run(self) -> float:
        return self._next_run if self.in_flight.runs or self.in_flight.superseded else NEVER

    def run_soon(self) -> None:
        self._next_run = 0.0

    def run_once(self) -> list[Ended]:
        """Returns the runs that were cut off after their jobs were lost to another worker: nothing is to be written."""
        now = time.monotonic()
        self._next_run = now + INTERVAL_SECONDS
        going = self.in_flight.going()
        for run in going:
            if run.deadline is not None and now >= run.deadline:
                run.timed_out = True
            is_waiting = run.started_at is None and not run.in_thread
            if is_waiting and run.claimed_at < now - UNSTARTED_SECONDS and run.take():
                self.prefetch.forget(run.job.queue)
                self.in_flight.end(Ended(run, ending.never_started(run.job.id, run.job.lease_epoch)))
        return [Ended(run, None) for run in self._ignoring(going, now) if self._cut_off(run)]

    def _ignoring(self, runs: list[Run], now: float) -> Iterator[Run]:
        """Interrupts jobs that have not left by themselves. Yields those that ignored even that."""
        for run in runs:
            # A planned stop is none of these: that waits until the grace is over, and then releases the job.
            must_leave = run.cancel_requested or run.timed_out or run.lease_lost
            if run.started_at is None or run.abandoned or not must_leave:
                continue
            reason = run.interruption
            assert reason is not None
            if run.interrupted_at is None:
                run.interrupted_at = now
                level = logging.WARNING if reason is LeaseLost else logging.DEBUG
                message = f"{run.job.task} {run.job.id} has to end: {reason.__name__}."
                emit("worker.interrupting", message, level=level, job_id=run.job.id, task=run.job.task)
            waited = now - run.interrupted_at
            if waited >= COOPERATIVE_SECONDS:
                run.interrupter.interrupt(reason)
            if waited >= COOPERATIVE_SECONDS + self.grace_seconds:
                yield run

    def _cut_off(self, run: Run) -> bool:
        """Close the row of a job that ignores its interruption; its thread is lost until the job returns. Whether
        there is no row to close, the job being lost."""
        was_lost, job = run.lease_lost, run.job
        self.slots.replace(run)
        message = f"{job.task} {job.id} ignored its interruption and was cut off; its thread is stuck."
        emit("worker.job_cut_off", message, level=logging.ERROR, job_id=job.id, task=job.task)
        if not was_lost:
            executor = self.slots.executor
            finish = ending.closed_by_force(run, executor.tasks.options_of(job), executor.worker)
            self.in_flight.end(Ended(run, finish))
        return was_lost


BLIND_INTERVAL_SECONDS = 1.0  # without LISTEN, while jobs run


class CancelRequests:
    def __init__(self, in_flight: InFlight, listener: JobsListener, watchdog: Watchdog) -> None:
        self.in_flight = in_flight
        self.listener = listener
        self.watchdog = watchdog
        self._run_at = 0.0

    @property
    def next_run(self) -> float:
        return self._run_at if self.in_flight.runs else NEVER

    def put_off(self) -> None:
        """The database refused: leave it alone for a moment."""
        self._run_at = time.monotonic() + REFUSED_SECONDS

    def hear_cancel(self) -> None:
        self._run_at = 0.0

    def run_once(self, connection: OwnConnection) -> int:
        wanted = cancel_requested(connection, list(self.in_flight.runs))
        for job_id in wanted:
            self.in_flight.runs[job_id].cancel_requested = True
            self.watchdog.run_soon()
        self._run_at = NEVER if self.listener.listens else time.monotonic() + BLIND_INTERVAL_SECONDS
        return len(wanted)
