"""The end of the process that --max-seconds sets: when the planned stop begins, and what no longer begins before it.

The times, in their order: `claims_until`, `stop_at` (the planned stop), `calls_until` (jobs that have not left are
interrupted), `jobs_until` (they are released), `ends_at`.
"""

import logging
import time
from contextlib import suppress
from datetime import datetime

from pgonly_django.context.run import Run
from pgonly_django.events import emit
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.poll_timer import NEVER
from pgonly_django.worker.shutdown import interrupted_before

# Of --max-seconds at most. Leaving: the ends of the jobs, the row of the worker and its connections.
GRACE_SHARE, LEAVE_SHARE, LEAVE_SECONDS = 0.25, 0.1, 1.0
LEAVE_AT_LEAST_SECONDS = 0.05
# After so many jobs that lacked time the rest of the queue will lack it too.
LEFT_AT_MOST = 20


def grace_of(options: WorkerOptions) -> float:
    """The seconds that running jobs have at a planned stop: --grace-seconds, or less of a short --max-seconds."""
    if options.max_seconds is None:
        return options.grace_seconds
    return min(options.grace_seconds, options.max_seconds * GRACE_SHARE)


class Deadline:
    """For the main loop. Without --max-seconds every time is NEVER. All times are time.monotonic()."""

    def __init__(self, options: WorkerOptions, ends_at: float | None = None) -> None:
        """`ends_at` None: --max-seconds from now."""
        self.grace_seconds, leave_seconds, self.ends_at = grace_of(options), 0.0, NEVER
        self._max_seconds = options.max_seconds or 0.0
        if options.max_seconds is not None:
            leave_seconds = min(LEAVE_SECONDS, options.max_seconds * LEAVE_SHARE)
            self.ends_at = time.monotonic() + options.max_seconds if ends_at is None else ends_at
        self._leaves_at, self._leave_seconds = self.ends_at, leave_seconds
        self.jobs_until = self.ends_at - leave_seconds
        self.gives_up_at = self.ends_at - leave_seconds / 2
        self.calls_until = self.jobs_until - interrupted_before(self.grace_seconds)
        self.stop_at = self.jobs_until - self.grace_seconds
        # A job that is claimed has a second, at least, before it is interrupted.
        self.claims_until = min(self.stop_at, self.calls_until - leave_seconds)
        self._is_closed = False
        self.left_early: set[str] = (
            set()
        )  # ids of jobs whose run left for lack of time; they are not claimed again
        # Seconds that a step of this task took, of the runs that ended here.
        self._longest: dict[str, float] = {}

    @property
    def claims_nothing(self) -> bool:
        return self._is_closed or time.monotonic() >= self.claims_until

    def next_step(self, now: float) -> float:
        """When the loop has to look at it again."""
        return min((at for at in (self.claims_until, self.stop_at) if at > now), default=NEVER)

    def is_over(self, now: float) -> bool:
        """Whether the planned stop has to begin."""
        return now >= self.stop_at

    def leave_by(self, at: float, leave_seconds: float) -> None:
        """The process ends at `at`, if not before; of that, the last seconds are for what follows the last job."""
        if at < self._leaves_at:
            self._leaves_at, self._leave_seconds = at, leave_seconds

    def at_most(self, seconds: float, keeps: float = 0.0) -> float:
        """So much of these seconds as is left before the end. `keeps`: without this share of the seconds for leaving,
        which is for what follows."""
        left = self._leaves_at - keeps * self._leave_seconds - time.monotonic()
        return min(seconds, max(left, LEAVE_AT_LEAST_SECONDS))

    def admit(self, run: Run) -> bool:
        """Whether a run that was just claimed may begin: not where its steps take longer than is left. The claims to
        come pass over such a job. A limited claim would bring it again, so after that one nothing more is claimed."""
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
        """The run is over here."""
        if self.ends_at == NEVER:
            return
        self._longest[run.job.task] = max(self._longest.get(run.job.task, 0.0), run.calls.longest_seconds)
        if not run.leaves_early and run.calls.outlast_their_run and run.stop_requested:
            _emit_outlasted(run)


def _known_to_others(run: Run) -> float:
    """Seconds of the longest step of a job that left another process for lack of time, until the processes that lived
    then are over: they must not begin the step one after the other. Where it takes longer than any process lives, a
    later one begins it."""
    longest_seconds = 0.0
    for entry in run.job.errors if isinstance(run.job.errors, list) else ():
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # another program may have written it
            if datetime.fromisoformat(entry["until"]) > run.now():
                longest_seconds = max(longest_seconds, float(entry["longest_seconds"]))
    return longest_seconds


def _emit_outlasted(run: Run) -> None:
    message = (
        f"{run.job.task} {run.job.id} was stopped by --max-seconds in the middle of its first step, after "
        f"{run.seconds:.1f} s. The next run calls that step again: where it takes longer than a process lives, it "
        "never ends and is paid for each time. Give it more --max-seconds, or make the step shorter."
    )
    facts = {"job_id": run.job.id, "task": run.job.task, "seconds": round(run.seconds, 1)}
    emit("worker.step_outlasted", message, level=logging.WARNING, **facts)
