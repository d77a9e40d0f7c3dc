"""The end of a worker: a planned stop step by step, the end that --max-seconds sets, and requests of people."""

import logging
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from pgonly_django.context.run import Run
from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.exceptions import JobStopped
from pgonly_django.queue import liveness
from pgonly_django.queue.liveness import Request
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.ending import EndedRun, never_started, released
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.job_log import log_left
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.timers import NEVER, DatabaseTimer

LEAVE_SECONDS = 2.0  # after the grace, until the process has ended, whatever hangs
LONGEST_LEAVE_SECONDS = 10.0  # of a worker that was not told to stop
CALLS_SECONDS = 5.0
LOG_SECONDS = 0.2  # for the log, at least
JOIN_SECONDS = INSTRUMENTS_SECONDS = 2.0  # in which instruments send what they have
# Of the time for leaving, what is kept for the steps after these calls, the log, instruments and threads.
AFTER_CALLS, AFTER_LOG, AFTER_INSTRUMENTS, AFTER_THREADS = 0.5, 0.42, 0.35, 0.15
# Ends that are not written this long after the grace period are left to the leases, which run out by themselves.
GIVE_UP_SECONDS = 1.0
LAST_SECONDS = 1.0
# Of --max-seconds at most. Leaving: the ends of the jobs, the row of the worker and its connections.
GRACE_SHARE, LEAVE_SHARE, LEAVE_AT_MOST_SECONDS = 0.25, 0.1, 1.0
LEAVE_AT_LEAST_SECONDS = 0.05
# After this many jobs that lacked time the rest of the queue will lack it too.
LEFT_AT_MOST = 20


def interrupted_before(grace_seconds: float) -> float:
    """Returns the number of seconds before the end of the grace period at which jobs that have ignored should_stop get
    an exception: time for their `finally`."""
    return min(LAST_SECONDS, grace_seconds / 4)


def grace_of(options: WorkerOptions) -> float:
    """The seconds for running jobs at a planned stop: --grace-seconds, or less of a short --max-seconds."""
    if options.max_seconds is None:
        return options.grace_seconds
    return min(options.grace_seconds, options.max_seconds * GRACE_SHARE)


class Shutdown:
    """The shutdown. Any thread and signal handler may call ask(), the main loop the rest. Times are monotonic()."""

    def __init__(
        self, grace_seconds: float, *, jobs_until: float = NEVER, gives_up_at: float = NEVER
    ) -> None:
        """Whenever it is asked: at `jobs_until` the grace period ends, at `gives_up_at` the worker leaves."""
        self.grace_seconds = grace_seconds
        self._jobs_until, self._gives_up_at = jobs_until, gives_up_at
        self.is_asked = False
        self.left_behind = False  # jobs that were given back still run here
        self.asked: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put() is safe in a signal handler
        self._at_once = False
        self._has_begun = False
        self._is_over = False  # the grace; the jobs that still ran have been given back
        self._until = NEVER  # the end of the grace

    def hurry(self, grace_seconds: float) -> None:
        """Makes the grace period shorter, if it is longer than this."""
        self.grace_seconds = min(self.grace_seconds, grace_seconds)

    def ask(self, *, at_once: bool = False) -> None:
        """Asks for a stop. The grace period begins here, also while the main loop waits for the database."""
        self._at_once = self._at_once or at_once
        until = time.monotonic() + (0.0 if at_once else self.grace_seconds)
        self._until = min(self._until, until, self._jobs_until)
        if at_once or not self.is_asked:
            self.asked.put(None)
        self.is_asked = True

    @property
    def leaves_at(self) -> float:
        """The time at which the process has ended, at the latest."""
        return self._until + LEAVE_SECONDS

    def next_step(self, now: float) -> float:
        """The time at which there is more to tell the jobs."""
        if self._is_over:
            return self._until + GIVE_UP_SECONDS
        return self._until if now >= self._interrupt_at else self._interrupt_at

    def obey(self, now: float, in_flight: InFlight) -> None:
        """Takes the step that is due. Jobs that go back now get their ends."""
        if not self._has_begun:
            self._has_begun = True
            self._begin(now, in_flight)
        if now >= self._until:
            self._is_over = True
            self._release(in_flight)
        elif now >= self._interrupt_at:
            for run in in_flight.runs.values():
                run.interrupter.interrupt(JobStopped)

    def gives_up(self, in_flight: InFlight, *, is_away: bool) -> bool:
        """Returns whether to leave with unwritten ends: the database is unavailable, or another transaction has locked
        a row."""
        gives_up_at = min(self._until + GIVE_UP_SECONDS, self._gives_up_at)
        # Not before the ends were tried once: the main loop may have waited for the database until now.
        gives_up = self._is_over and ((self._at_once and is_away) or time.monotonic() >= gives_up_at)
        if gives_up:
            log_left(in_flight.ids, is_away=is_away)
        return gives_up

    @property
    def _interrupt_at(self) -> float:
        return self._until - interrupted_before(self.grace_seconds)

    def _begin(self, now: float, in_flight: InFlight) -> None:
        """Asks all jobs to stop; what has not begun will not begin."""
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
                in_flight.end(EndedRun(run, never_started(run.job.id, run.job.lease_epoch)))

    def _release(self, in_flight: InFlight) -> None:
        """Gives back what still runs at the end of the grace period, with its checkpoint; its thread dies with the
        process. Another worker may claim it at once, so from here on the process hurries to its end.
        """
        for run in [run for job_id, run in in_flight.runs.items() if job_id not in in_flight.ended]:
            run.abandoned = self.left_behind = True
            run.interrupter.interrupt(JobStopped)
            in_flight.end(EndedRun(run, released(run)))


class Deadline:
    """The end of the process that --max-seconds sets, for the main loop. Its times, in their order: `claims_until`,
    `stop_at` (the planned stop), `calls_until` (jobs that have not left are interrupted), `jobs_until` (they are
    released), `ends_at`. Without --max-seconds each is NEVER."""

    def __init__(self, options: WorkerOptions, ends_at: float | None = None) -> None:
        """`ends_at` None: --max-seconds from now."""
        self.grace_seconds, leave_seconds, self.ends_at = grace_of(options), 0.0, NEVER
        self._max_seconds = options.max_seconds or 0.0
        if options.max_seconds is not None:
            leave_seconds = min(LEAVE_AT_MOST_SECONDS, options.max_seconds * LEAVE_SHARE)
            self.ends_at = time.monotonic() + options.max_seconds if ends_at is None else ends_at
        self._leaves_at, self._leave_seconds = self.ends_at, leave_seconds
        self.jobs_until = self.ends_at - leave_seconds
        self.gives_up_at = self.ends_at - leave_seconds / 2
        self.calls_until = self.jobs_until - interrupted_before(self.grace_seconds)
        self.stop_at = self.jobs_until - self.grace_seconds
        # A job that is claimed has a second, at least, before it is interrupted.
        self.claims_until = min(self.stop_at, self.calls_until - leave_seconds)
        self._is_closed = False
        # The ids of jobs whose run left for lack of time: they are not claimed again.
        self.left_early: set[str] = set()
        # Seconds that a step of this task took, of the runs that ended here.
        self._longest: dict[str, float] = {}

    @property
    def claims_nothing(self) -> bool:
        return self._is_closed or time.monotonic() >= self.claims_until

    def next_step(self, now: float) -> float:
        """The time at which the loop has to look at it again."""
        return min((at for at in (self.claims_until, self.stop_at) if at > now), default=NEVER)

    def leave_by(self, at: float, leave_seconds: float) -> None:
        """Ends the process at `at`, if not before; its last seconds are for what happens after the last job."""
        if at < self._leaves_at:
            self._leaves_at, self._leave_seconds = at, leave_seconds

    def leave(self, shutdown: Shutdown) -> None:
        """Called when the worker leaves now."""
        self.leave_by(time.monotonic() + LONGEST_LEAVE_SECONDS, LONGEST_LEAVE_SECONDS)
        self.leave_by(shutdown.leaves_at, LEAVE_SECONDS)

    def for_calls(self) -> float:
        """Returns how long signals, on_failure and the log may take together."""
        return self.at_most(CALLS_SECONDS, keeps=AFTER_CALLS)

    def for_log(self, seconds: float) -> float:
        return self.at_most(max(seconds, LOG_SECONDS), keeps=AFTER_LOG)

    def for_instruments(self) -> float:
        return self.at_most(INSTRUMENTS_SECONDS, keeps=AFTER_INSTRUMENTS)

    def for_threads(self) -> float:
        return self.at_most(JOIN_SECONDS, keeps=AFTER_THREADS)

    def at_most(self, seconds: float, keeps: float = 0.0) -> float:
        """Returns as many of these seconds as are left before the end. `keeps`: without this share of the seconds for
        leaving, which is for what happens afterwards."""
        left = self._leaves_at - keeps * self._leave_seconds - time.monotonic()
        return min(seconds, max(left, LEAVE_AT_LEAST_SECONDS))

    def admit(self, run: Run) -> bool:
        """Returns whether a run that was just claimed may begin: not where its steps take longer than is left. Later
        claims pass over such a job. A limited claim would bring it again, so after that one nothing more is claimed."""
        if self.ends_at == NEVER:
            return True
        run.stop_until, run.calls.until = self.jobs_until, self.calls_until
        run.calls.process_seconds = self._max_seconds
        run.calls.longest_seconds = max(self._longest.get(run.job.task, 0.0), _known_to_others(run))
        if run.job.id in self.left_early or run.calls.lacks_time():
            self.left_early.add(run.job.id)
            self._is_closed = run.is_limited or len(self.left_early) >= LEFT_AT_MOST
            return False
        return True

    def note_end(self, run: Run) -> None:
        """Notes that the run has ended here, with --max-seconds."""
        self._longest[run.job.task] = max(self._longest.get(run.job.task, 0.0), run.calls.longest_seconds)
        if not run.leaves_early and run.calls.outlast_their_run and run.stop_requested:
            message = (
                f"{run.job.task} {run.job.id} was stopped by --max-seconds in the middle of its first step, after "
                f"{run.seconds:.1f} s. The next run calls that step again: where it takes longer than a process lives, "
                "it never ends and is paid for each time. Give it more --max-seconds, or make the step shorter."
            )
            facts = {"job_id": run.job.id, "task": run.job.task, "seconds": round(run.seconds, 1)}
            emit("worker.step_outlasted", message, level=logging.WARNING, **facts)


def _known_to_others(run: Run) -> float:
    """Returns the seconds of the longest step of a job that left another process for lack of time, until the processes
    that lived then have ended: they must not begin the step one after the other. Where it takes longer than any process
    lives, a later one begins it."""
    longest_seconds = 0.0
    for entry in run.job.errors if isinstance(run.job.errors, list) else ():
        # A run that left for another reason has neither.
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            if datetime.fromisoformat(entry["until"]) > run.now():
                longest_seconds = max(longest_seconds, entry["longest_seconds"])
    return longest_seconds


SAID = {
    Request.STOP: "A person has asked this worker to stop: its jobs are given back after the grace period.",
    Request.DRAIN: "A person has asked this worker to end after its jobs are done: it does not claim any more.",
}


class StopRequests(DatabaseTimer):
    """Finds out whether a person wants this worker to stop, or to end after its jobs are done (Worker.objects.stop()
    and drain()). The heartbeats ask too, in case the NOTIFY was lost."""

    def __init__(
        self, worker_id: UUID, database: WorkerConnection, stop: Callable[[], None], drain: Callable[[], None]
    ) -> None:
        super().__init__(database, NEVER)
        self.worker_id = worker_id
        self._obey = {Request.STOP: stop, Request.DRAIN: drain}
        self._obeyed: set[Request] = set()

    def hear_of(self, worker_id: str) -> None:
        """Called when a person has asked something of this worker, or of any."""
        if worker_id in (str(self.worker_id), notify.ANY_WORKER):
            self.wake()

    def ask(self, connection: OwnConnection) -> bool:
        request = liveness.requested(connection, self.worker_id)
        self.at = NEVER
        if request is not None:
            self.take(request)
        return True

    def take(self, name: str) -> None:
        for request in Request:
            if request == name and request not in self._obeyed:
                self._obeyed.add(request)
                emit("worker.stop_requested", SAID[request], asked=request.value)
                self._obey[request]()
