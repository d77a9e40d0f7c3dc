"""Watches running jobs: deadlines, cancellations, ignored interruptions, claimed jobs that no slot starts."""

import logging
import time
from collections.abc import Callable

from pgonly_django.context.run import Run
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.exceptions import LeaseLost
from pgonly_django.queue.liveness import cancel_requested
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.ending import EndedRun, closed_by_force, never_started
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.slots import Slots
from pgonly_django.worker.timers import NEVER, DatabaseTimer, Timer

INTERVAL_SECONDS = 0.25
# A job that was cancelled, or ran too long, may leave by itself for this long; then an exception is raised in it.
COOPERATIVE_SECONDS = 1.0
# A job that was prefetched and still waits for a slot goes back.
UNSTARTED_SECONDS = 1.0
BLIND_INTERVAL_SECONDS = 1.0  # between two looks for cancellations without LISTEN, while jobs run


class Watchdog(Timer):
    """The watchdog. `not_short` gets the queue of a job that waited too long for a slot; `lost` a run that was cut off
    after its job was lost to another worker, so that nothing has to be written."""

    def __init__(
        self, in_flight: InFlight, slots: Slots, grace_seconds: float, *,
        not_short: Callable[[str], None], lost: Callable[[EndedRun], None],
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_flight, self.slots, self.grace_seconds = in_flight, slots, grace_seconds
        self._not_short, self._lost = not_short, lost

    @property
    def due_at(self) -> float:
        return self.at if self.in_flight.runs or self.in_flight.superseded else NEVER

    def run(self) -> None:
        now = time.monotonic()
        self.at = now + INTERVAL_SECONDS
        for run in self.in_flight.going():
            if run.deadline is not None and now >= run.deadline:
                run.timed_out = True
            is_waiting = run.started_at is None and not run.in_thread
            if is_waiting and run.claimed_at < now - UNSTARTED_SECONDS and run.take():
                self._not_short(run.job.queue)
                self.in_flight.end(EndedRun(run, never_started(run.job.id, run.job.lease_epoch)))
            # A planned stop is none of these: that waits until the grace is over, and then releases the job.
            must_leave = run.cancel_requested or run.timed_out or run.lease_lost
            if run.started_at is not None and not run.abandoned and must_leave:
                self._interrupt(run, now)

    def _interrupt(self, run: Run, now: float) -> None:
        """Interrupts a job that has not left by itself in time, and cuts off one that ignores even that."""
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
            self._cut_off(run)

    def _cut_off(self, run: Run) -> None:
        """Closes the row of a job that ignores its interruption; its thread is lost until the job returns."""
        was_lost, job = run.lease_lost, run.job
        self.slots.replace(run)
        message = f"{job.task} {job.id} ignored its interruption and was cut off; its thread is stuck."
        emit("worker.job_cut_off", message, level=logging.ERROR, job_id=job.id, task=job.task)
        if was_lost:
            self._lost(EndedRun(run, None))
        else:
            finish = closed_by_force(run, self.slots.executor.tasks.options_of(job))
            self.in_flight.end(EndedRun(run, finish))


class CancelRequests(DatabaseTimer):
    """Finds out which of the running jobs a person wants to cancel."""

    def __init__(self, in_flight: InFlight, database: WorkerConnection, watchdog: Watchdog) -> None:
        super().__init__(database)
        self.in_flight, self.watchdog = in_flight, watchdog

    @property
    def due_at(self) -> float:
        return super().due_at if self.in_flight.runs else NEVER

    def ask(self, connection: OwnConnection) -> int:
        wanted = cancel_requested(connection, list(self.in_flight.runs))
        for job_id in wanted:
            self.in_flight.runs[job_id].cancel_requested = True
            self.watchdog.wake()
        self.at = NEVER if self.database.listener.listens else time.monotonic() + BLIND_INTERVAL_SECONDS
        return len(wanted)
