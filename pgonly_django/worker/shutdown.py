"""A planned stop, step by step: what the jobs are told, and when they go back."""

import queue
import time

from pgonly_django.events import emit
from pgonly_django.exceptions import JobStopped
from pgonly_django.worker import outcomes
from pgonly_django.worker.finishes import WorkerFacts
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.outcomes import Ended
from pgonly_django.worker.poll_timer import NEVER

# So long after the grace the process has ended, whatever hangs.
LEAVE_SECONDS = 2.0
# Ends that are not written so long after the grace are left to the leases, which run out by themselves.
GIVE_UP_SECONDS = 1.0
LAST_SECONDS = 1.0


def interrupted_before(grace_seconds: float) -> float:
    """So long before the end of the grace, jobs that have not heeded should_stop get an exception: time for their
    `finally`."""
    return min(LAST_SECONDS, grace_seconds / 4)


class Shutdown:
    """Signal handlers and any thread may call ask(), the rest is the main loop's. All times are time.monotonic()."""

    def __init__(
        self,
        grace_seconds: float,
        worker: WorkerFacts,
        *,
        jobs_until: float = NEVER,
        gives_up_at: float = NEVER,
    ) -> None:
        """Whenever it is asked: at `jobs_until` the grace is over, at `gives_up_at` the worker leaves."""
        self.grace_seconds = grace_seconds
        self.worker = worker
        self._jobs_until, self._gives_up_at = jobs_until, gives_up_at
        self.is_asked = False
        self.left_behind = False  # jobs that were given back still run here
        self.asked: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put() is safe in a signal handler
        self._at_once = False
        self._has_begun = False
        self._is_over = False  # the grace; the jobs that still ran have been given back
        self._until = NEVER  # the end of the grace

    def ask(self, *, at_once: bool = False) -> None:
        """The grace counts from here, also where the main loop waits for a database that does not answer."""
        self._at_once = self._at_once or at_once
        until = time.monotonic() + (0.0 if at_once else self.grace_seconds)
        self._until = min(self._until, until, self._jobs_until)
        if at_once or not self.is_asked:
            self.asked.put(None)
        self.is_asked = True

    @property
    def leaves_at(self) -> float:
        """When the process has ended, at the latest."""
        return self._until + LEAVE_SECONDS

    def next_step(self, now: float) -> float:
        """When there is more to tell the jobs."""
        if self._is_over:
            return self._until + GIVE_UP_SECONDS
        return self._until if now >= self._interrupt_at else self._interrupt_at

    def obey(self, now: float, in_flight: InFlight) -> None:
        """Take the step that is due. Jobs that go back now get their ends."""
        if not self._has_begun:
            self._has_begun = True
            self._begin(now, in_flight)
        if now >= self._until:
            self._is_over = True
            self._release(in_flight)
        elif now >= self._interrupt_at:
            for run in in_flight.runs.values():
                run.interrupter.interrupt(JobStopped)

    def gives_up(self, *, is_away: bool) -> bool:
        """Whether to leave although ends are unwritten: the database is away, or somebody keeps a row locked."""
        gives_up_at = min(self._until + GIVE_UP_SECONDS, self._gives_up_at)
        # Not before the ends were tried once: the main loop may have waited for the database until now.
        return self._is_over and ((self._at_once and is_away) or time.monotonic() >= gives_up_at)

    @property
    def _interrupt_at(self) -> float:
        return self._until - interrupted_before(self.grace_seconds)

    def _begin(self, now: float, in_flight: InFlight) -> None:
        """Ask all jobs to stop; what has not begun will not begin."""
        until, runs = self._until, in_flight.runs.values()
        grace = max(until - now, 0.0)
        message = f"Stopping: {len(runs)} job(s) are released now." if runs else "Stopping: no job runs here."
        if runs and not self._at_once:
            message = (
                f"Stopping: {len(runs)} job(s) have {grace:.3g} s to save and leave, then they are released."
                " Ctrl-C again releases them now."
            )
        emit("worker.stopping", message, running=len(runs), grace_seconds=grace)
        for run in runs:
            run.stop_until, run.stop_requested = until, True
            if run.take():
                in_flight.end(Ended(run, outcomes.never_started(run.job.id, run.job.lease_epoch)))

    def _release(self, in_flight: InFlight) -> None:
        """The grace is over: what still runs goes back with its checkpoint; its thread dies with the process.

        Another worker may claim it at once, so from here on the process hurries to its end.
        """
        for run in [run for job_id, run in in_flight.runs.items() if job_id not in in_flight.ended]:
            run.abandoned = self.left_behind = True
            run.interrupter.interrupt(JobStopped)
            in_flight.end(Ended(run, outcomes.released(run, self.worker)))
