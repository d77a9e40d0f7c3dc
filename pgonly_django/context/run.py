"""The state of one run that the worker and the job context share. Plain attributes: each has one writer."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgonly_django.context.calls import Calls
from pgonly_django.context.interrupter import Interrupter, current_task
from pgonly_django.context.pending_wait import PendingWait
from pgonly_django.context.unwritten import UnwrittenOutput
from pgonly_django.error_texts import RunKey
from pgonly_django.exceptions import (
    JobCancelled,
    JobHeld,
    JobInterrupt,
    JobStopped,
    JobTimedOut,
    JobWaiting,
    LeaseLost,
)
from pgonly_django.models.job_rows import LOG_LINES_KEPT
from pgonly_django.queue.claim import ClaimedJob, time_of
from pgonly_django.queue.waits import NewWait

SOON_SECONDS = 1.0
# Held while the heartbeat renews leases. A thread that holds it while it sets `keeps_snapshot` knows that no renewal of
# that row is under way.
renewing = threading.Lock()


class Counting:
    """What progress() counts in one run. A run that continues from an earlier one measures from its first report. If
    the count starts over, as in a second loop, measuring does, too."""

    __slots__ = ("_done", "_since", "_total")

    def __init__(self, *, is_first_run: bool) -> None:
        self._done: Any = 0 if is_first_run else None
        self._total: Any = None
        self._since: dict[str, Any] | None = None

    def since(self, done: Any, total: Any, seconds: float) -> dict[str, Any] | None:
        """Returns where measuring begins, for the report of `done` after `seconds` of the run. None: at its start, from
        zero."""
        if not (_is_number(done) and (total is None or _is_number(total))):
            return None
        is_other = total is not None and self._total is not None and total != self._total
        if self._done is None or is_other or done < self._done:
            is_beginning = done == 0 and seconds < SOON_SECONDS
            self._since = None if is_beginning else {"done": done, "seconds": round(seconds, 3)}
        self._done = done
        self._total = total if total is not None else self._total
        return self._since


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def lease_end(asked_at: float, lease_for: timedelta) -> float:
    """Returns the moment (monotonic) until which a lease holds for sure, counted from before the statement was sent."""
    return asked_at + lease_for.total_seconds()


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """What holds the job, why, and after how many seconds it continues by itself, if it does."""

    by: str
    reason: str
    again_in_seconds: float | None = None


class Run:
    """One claimed job while this process holds it. Local times are time.monotonic().

    Every job makes one, and few need more than the first of these attributes: the others have their values in the
    class until they are set, which takes a quarter of the time.
    """

    started_at: float | None = None
    slots = 1  # how many of the worker's it takes up
    is_limited = False  # a limited claim took it: its end makes room for another job
    result: Any = None  # the JobResult that the signals and the context carry; see result_of()
    # Set by the worker, read by the job.
    stop_requested = False
    stop_until: float | None = None  # from the start on, where the process ends by itself (--max-seconds)
    cancel_requested = False
    timed_out = False
    lease_lost = False
    # Set by the job: the process ends before its next step or item would.
    leaves_early = False
    _calls: Calls | None = None
    # Set by a budget that the job is over, in whatever thread of the job: what holds it, and why.
    held: HoldRequest | None = None
    waits: Sequence[PendingWait] = ()  # set by the job; several of its threads or asyncio tasks may wait
    leaves_to_wait = False  # set by the job: it waits, and nothing else in this run can go on
    is_over = False  # the function of the job has ended
    # Set by the job, collected by the worker.
    progress: str | None = None  # JSON
    counting: Counting | None = None
    log_lines: deque[dict[str, str]] | None = None
    unwritten: UnwrittenOutput | None = None  # what it has emitted, after it has
    emitting: set[Run] | None = None  # the worker's: the runs that have emitted
    needs_report = False
    saved_something_new = False  # no earlier run of this suspect got so far: the job is no longer suspected
    got_further = False  # known after a failure: the run has saved what no earlier run had
    # Between the worker and the thread or event loop that runs it.
    found_task: Any = None  # what the worker knows of its task, after the task's module is imported
    in_thread = False
    reports_itself = False  # with its own transaction, which is about to end
    # If the worker wrote the row now, the job's own transaction could not any more.
    keeps_snapshot = False
    abandoned = False
    interrupted_at: float | None = None
    seen: Any = None  # the JobRun that instruments were given
    has_reserved = False  # see CurrentJob
    context_raised = False  # a method of the context has raised the interruption

    def __init__(
        self, job: ClaimedJob, alias: str, claimed_at: float, lease_until: float, worker: str = "", worker_id: str = "",
        plan: Any = None,
    ) -> None:  # fmt: skip
        """`plan`: the worker's ClaimPlan."""
        self.job = job
        self.alias = alias
        self.claimed_at = claimed_at
        self.lease_until = lease_until
        self.worker = worker  # its name
        self.worker_id = worker_id
        self._plan = plan
        self.interrupter = Interrupter()
        self._token: list[None] = [None]
        self.reservations: list[None] = []

    @property
    def calls(self) -> Calls:
        """The calls of the run, made for the first caller: its context, before the job's threads. Most jobs have no
        steps."""
        if self._calls is None:
            self._calls = Calls()
        return self._calls

    def take(self) -> bool:
        """Returns True for the first caller only: either a slot starts the job, or the worker gives it back."""
        try:  # as take() of interrupter.py, in one call less for each job
            self._token.pop()
        except IndexError:
            return False
        return True

    def renew_lease(self, asked_at: float, lease_for: timedelta) -> None:
        """Notes that PostgreSQL has renewed the lease, by a statement that was sent at `asked_at`."""
        self.lease_until = lease_end(asked_at, lease_for)

    def hold(self, by: str, reason: str, again_in_seconds: float | None = None) -> BaseException:
        """See CurrentJob. The first request counts."""
        self.held = self.held or HoldRequest(by, reason, again_in_seconds)
        self.context_raised = True
        return (self.interruption or JobHeld)()

    @property
    def is_in_the_way(self) -> bool:
        """See CurrentJob."""
        if self._calls is not None and self._calls.are_several:
            return False
        return self.is_limited or (self._plan is not None and self._plan.spare_slots <= 0)

    def share_of_slots(self, waited: float) -> float:
        """See CurrentJob."""
        if self._calls is not None and self._calls.completed:
            return 0.0
        threads = 1 if self._plan is None else self._plan.threads
        return max(self.seconds - waited, 0.0) / threads

    def begin_wait(self, of: Sequence[NewWait]) -> PendingWait:
        task = None if self.interrupter.is_here else current_task()
        pending = PendingWait(of, task, self.calls.around_here, self.calls.active_at)
        vars(self).setdefault("waits", []).append(pending)
        return pending

    def end_wait(self, pending: PendingWait) -> None:
        """Called if the run continues. The waits of a run that leaves say until when its job waits."""
        vars(self)["waits"].remove(pending)
        self.calls.active_at = time.monotonic()

    def own_names(self, pending: PendingWait) -> list[str]:
        """Returns the names that this wait is for, without names that open waits of other branches are for as well."""
        open_ones = [each for each in tuple(self.waits) if each is not pending and not each.is_answered]
        others = {wait.name for each in open_ones for wait in each.of}
        return [wait.name for wait in pending.of if wait.name not in others]

    def leave_to_wait(self) -> None:
        """Makes the run end, and the job wait until one of its waits has an answer."""
        self.leaves_to_wait = self.context_raised = True

    def raise_if_interrupted(self) -> None:
        """Raises the interruption of a run that has to end."""
        if (interruption := self.interruption) is not None:
            self.context_raised = True
            raise interruption

    def begin_output(self, unwritten: UnwrittenOutput) -> None:
        """Called by the job's threads: from now on the worker looks whether something is new."""
        if self.emitting is not None:
            self.emitting.add(self)
        # Last: an interruption in between leaves no output that the worker does not see.
        self.unwritten = unwritten

    def log(self, text: str) -> None:
        if self.log_lines is None:
            self.log_lines = deque(maxlen=LOG_LINES_KEPT)
        self.log_lines.append({"at": self.now().isoformat(), "text": text})
        self.needs_report = True

    def counts_since(self, done: Any, total: Any) -> dict[str, Any] | None:
        """See Counting. Its seconds are counted from `attempted_at`."""
        if self.counting is None:
            self.counting = Counting(is_first_run=self.job.lease_epoch <= 1)
        return self.counting.since(done, total, time.monotonic() - self.claimed_at)

    @property
    def key(self) -> RunKey:
        return self.job.id, self.job.lease_epoch

    def now(self) -> datetime:
        """Returns the database's time: see at()."""
        return self.at(time.monotonic())

    def at(self, moment: float) -> datetime:
        """Returns the database's time at `moment`: the time of the claim plus the seconds that this machine has counted
        since."""
        return time_of(self.job.attempted_timestamp + moment - self.claimed_at)

    @property
    def seconds(self) -> float:
        """The number of seconds for which it has been running; 0 before the start."""
        return 0.0 if self.started_at is None else time.monotonic() - self.started_at

    @property
    def deadline(self) -> float | None:
        """The end of max_runtime; None before the start or without a limit."""
        if self.started_at is None or self.job.max_runtime is None:
            return None
        return self.started_at + self.job.max_runtime.total_seconds()

    @property
    def is_in_grace(self) -> bool:
        """Whether this is a planned stop with time left to save."""
        until = self.stop_until if self.interruption is JobStopped else None
        return until is not None and time.monotonic() < until

    @property
    def lease_in_doubt(self) -> bool:
        """Whether the lease should have ended by now. Until a heartbeat renews it, the job may run elsewhere."""
        return time.monotonic() >= self.lease_until

    def raise_if_swallowed(self) -> None:
        """Called when the job has returned. Raises the interruption that was raised in the job's code and caught
        there. A job that returned before it noticed any interruption has done its work."""
        if (self.context_raised or self.interrupter.has_reached_job) and self.interruption is not None:
            raise self.interruption

    @property
    def interruption(self) -> type[JobInterrupt] | None:
        """The reason why the run has to end; None while it may continue."""
        if self.lease_lost:
            return LeaseLost
        if self.cancel_requested:
            return JobCancelled
        if self.timed_out:
            return JobTimedOut
        if self.held is not None:
            return JobHeld
        if self.leaves_to_wait:  # before a stop, which would only make another worker come here again
            return JobWaiting
        return JobStopped if self.stop_requested or self.leaves_early else None
