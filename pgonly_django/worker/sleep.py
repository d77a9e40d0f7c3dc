"""When a worker sleeps (--sleep-after): it has no connection, until a due time, a POST to /wake or --poll-seconds.

It falls asleep when it has had nothing to do for so long, and no job of any worker runs: while one does, somebody has
to be there who notices its worker's death. Times are time.monotonic(), which may stand still while the machine is
suspended; so time.time() counts as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Protocol
from uuid import UUID

from django.db import connections

from pgonly_django.database import notify
from pgonly_django.events import emit
from pgonly_django.queue import liveness
from pgonly_django.wording import duration
from pgonly_django.worker.claiming import PollTimer, Promotion
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.heartbeat import Heartbeat
from pgonly_django.worker.limited_claims import LimitedClaims
from pgonly_django.worker.maintenance import BUSY_SECONDS, Maintenance
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.scheduler import Scheduler
from pgonly_django.worker.slots import Slots
from pgonly_django.worker.stopping import StopRequests
from pgonly_django.worker.timers import NEVER

# Between two looks whether it may sleep: while its own timers have something to do, and while a job runs elsewhere.
LOOK_SECONDS, RUNNING_SECONDS = 1.0, 15.0
REASONS = {"woken": "a POST to /wake came", "due": "it is time to look"}
SHORTEST_SECONDS = 5.0  # for less it stays awake


class Rests(Protocol):
    """Has threads whose connections are closed by rest()."""

    def rest(self) -> None: ...


class Phase(Enum):
    AWAKE = auto()
    CHECKING = auto()  # the maintenance thread looks whether it is needed
    ASLEEP = auto()


class Sleep:
    """For the main loop alone."""

    def __init__(
        self, worker_id: UUID, options: WorkerOptions, database: WorkerConnection,
        timers: tuple[PollTimer, LimitedClaims, Promotion], threads: tuple[Heartbeat, Maintenance, Scheduler],
        stop_requests: StopRequests, slots: Slots, others: Sequence[Rests], is_idle: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`is_idle` says whether the main loop has nothing to do."""
        self.worker_id, self.options, self.database = worker_id, options, database
        self.poll_timer, self.limited, self.promotion = self._timers = timers
        self.heartbeat, self.maintenance, self.scheduler = self._threads = threads
        self.slots, self._others, self._is_idle = slots, others, is_idle
        self._stop_requests = stop_requests
        self._phase = Phase.AWAKE
        self._heard_at = time.monotonic()
        self._only_looks = False  # since it woke up because it was time
        self.wake_at = self._wake_at_clock = NEVER
        self.next_run = NEVER
        if options.sleep_after is not None:
            self.next_run = self._heard_at + options.sleep_after

    @property
    def is_asleep(self) -> bool:
        return self._phase is Phase.ASLEEP

    def hear(self) -> None:
        """There may be something to do."""
        if not self._only_looks:
            self._heard_at = time.monotonic()
        if self.is_asleep:
            self._end("woken")

    def goes_on(self, now: float) -> bool:
        """Whether it still sleeps. It wakes up when it is time."""
        if self.is_asleep and (now >= self.wake_at or time.time() >= self._wake_at_clock):
            self._only_looks = True
            self._end("due")
        return self.is_asleep

    def _end(self, reason: str) -> None:
        """Connect again, and look for everything: first of all, before a claim, whether it was asked to stop."""
        self._phase = Phase.AWAKE
        self.next_run = time.monotonic() + LOOK_SECONDS
        self.database.wake()
        self._stop_requests.hear(notify.ANY_WORKER)
        for timer in self._timers:
            timer.wake()
        for thread in self._threads:
            thread.wake()
        self.maintenance.check()  # jobs that a budget has held may go on
        emit("worker.awake", f"Awake again: {REASONS[reason]}.", reason=reason)

    # How it falls asleep.

    def run_once(self) -> None:
        """Fall asleep, if it may. After a look that was due and has found nothing, that is at once."""
        now, self._only_looks = time.monotonic(), False
        if now < self._quiet_until:
            self.next_run = self._quiet_until
            return
        if self.heartbeat.some_running:
            self.next_run = now + RUNNING_SECONDS
            return
        self.next_run = now + LOOK_SECONDS
        if self._phase is Phase.AWAKE and self._may_sleep(now, NEVER):
            self._phase = Phase.CHECKING
            self.maintenance.check()

    def note_checked(self, *, is_calm: bool, resets_in: float = NEVER) -> None:
        """The maintenance thread has looked. `resets_in`: seconds until a budget that holds jobs has room again."""
        if self._phase is not Phase.CHECKING:
            return
        self._phase = Phase.AWAKE
        now = time.monotonic()
        if not is_calm:
            self.next_run = now + BUSY_SECONDS
        elif now >= self._quiet_until and self._may_sleep(now, now + resets_in):
            self._fall_asleep(now + resets_in)

    @property
    def _quiet_until(self) -> float:
        assert self.options.sleep_after is not None
        return max(self._heard_at, self.poll_timer.busy_at) + self.options.sleep_after

    def _may_sleep(self, now: float, resets_at: float) -> bool:
        is_idle = self._is_idle() and not self.slots.stuck
        return is_idle and self._next_due(resets_at) - now >= SHORTEST_SECONDS

    def _next_due(self, resets_at: float) -> float:
        poll_at = NEVER if self.options.poll_seconds is None else time.monotonic() + self.options.poll_seconds
        return min(poll_at, resets_at, self.scheduler.next_at, self.promotion.due_at, self.limited.opens_at)

    def _fall_asleep(self, resets_at: float) -> None:
        """Not when a NOTIFY has come before LISTEN ended. What is enqueued from then on is told by a POST alone."""
        self.next_run = time.monotonic() + RUNNING_SECONDS
        answer = self.database.ask(lambda connection: liveness.fall_asleep(connection, self.worker_id))
        if answer is None or not answer.is_asleep:
            return
        if answer.next_due_in_seconds is not None:
            self.promotion.expect_due(answer.next_due_in_seconds)
        heard = self.database.listening.ask(self.database.listener.close)
        if heard == [] and self._may_sleep(time.monotonic(), resets_at):
            self._let_go(self._next_due(resets_at))
        else:
            self.database.start_all_anew()

    def _let_go(self, wake_at: float) -> None:
        self._phase = Phase.ASLEEP
        self.next_run = NEVER
        seconds = wake_at - time.monotonic()
        self.wake_at, self._wake_at_clock = wake_at, time.time() + seconds
        for thread in self._threads:
            thread.sleep()
        for each in (self.slots, *self._others):
            each.rest()
        self.database.sleep()
        with suppress(Exception):  # a connection may break while it is closed
            connections.close_all()  # of this thread: those of the start
        until = f"for {duration(seconds)}, or " if seconds < NEVER else ""
        known = seconds if seconds < NEVER else None
        emit("worker.asleep", f"Nothing to do: asleep {until}until it is woken.", seconds=known)
