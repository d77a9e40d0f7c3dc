"""When a worker sleeps (--sleep-after): it has no connection, until a due time, a POST to /wake or --poll-seconds.

It falls asleep when it has had nothing to do for so long, and no job of any worker runs: while one does, somebody has
to be there who notices its worker's death. Times are time.monotonic(), which may stand still while the machine is
suspended; so time.time() counts as well.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Protocol
from uuid import UUID

from django.db import connections

from pgonly_django.database import notify
from pgonly_django.events import emit
from pgonly_django.queue import workers
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.duties.duty import BUSY_SECONDS
from pgonly_django.worker.duties.stop_requests import StopRequests
from pgonly_django.worker.job_log import duration
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.poll_timer import NEVER
from pgonly_django.worker.rest import Rest
from pgonly_django.worker.scheduler import Scheduler
from pgonly_django.worker.slots import Slots

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
        self, worker_id: UUID, options: WorkerOptions, database: WorkerConnection, rest: Rest,
        scheduler: Scheduler, stop_requests: StopRequests, slots: Slots, threads: Sequence[Rests],
    ) -> None:  # fmt: skip
        self.worker_id, self.options, self.database = worker_id, options, database
        self.rest, self.scheduler, self.slots, self._threads = rest, scheduler, slots, threads
        self._stop_requests = stop_requests
        self._phase = Phase.AWAKE
        self._heard_at = time.monotonic()
        self._only_looks = False  # since it woke up because it was time
        self.wake_at = self._wake_at_clock = NEVER
        self.next_run = NEVER
        if options.sleep_after is not None:
            self.next_run = self._heard_at + options.sleep_after
            database.on_lost = self._note_lost

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
        self.rest.end()
        self.rest.heartbeat.wake(at_once=True)
        self.rest.maintenance.wake()
        self.rest.maintenance.check()  # jobs that a budget has held may go on
        self.scheduler.wake()
        emit("worker.awake", f"Awake again: {REASONS[reason]}.", reason=reason)

    # How it falls asleep.

    def run_once(self) -> None:
        """Fall asleep, if it may. After a look that was due and has found nothing, that is at once."""
        now, self._only_looks = time.monotonic(), False
        if now < self._quiet_until:
            self.next_run = self._quiet_until
            return
        if not self.rest.heartbeat.is_resting and self.rest.heartbeat.some_running:
            self.next_run = now + RUNNING_SECONDS
            return
        self.next_run = now + LOOK_SECONDS
        if self._phase is Phase.AWAKE and self._may_sleep(now, NEVER):
            self._phase = Phase.CHECKING
            self.rest.maintenance.check()

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
        return max(self._heard_at, self.rest.poll_timer.busy_at) + self.options.sleep_after

    def _may_sleep(self, now: float, resets_at: float) -> bool:
        is_idle = self.rest.is_idle() and not self.slots.stuck
        return is_idle and self._next_due(resets_at) - now >= SHORTEST_SECONDS

    def _next_due(self, resets_at: float) -> float:
        poll_at = NEVER if self.options.poll_seconds is None else time.monotonic() + self.options.poll_seconds
        return min(
            poll_at, resets_at, self.scheduler.next_at, self.rest.promotion.due_at, self.rest.limited.opens_at
        )

    def _fall_asleep(self, resets_at: float) -> None:
        """Not when a NOTIFY has come before LISTEN ended. What is enqueued from then on is told by a POST alone."""
        self.next_run = time.monotonic() + RUNNING_SECONDS
        answer = self.database.ask(lambda connection: workers.fall_asleep(connection, self.worker_id))
        if answer is None or not answer.is_asleep:
            return
        if answer.next_due_in_seconds is not None:
            self.rest.promotion.expect_due(answer.next_due_in_seconds)
        heard = self.database.listening.ask(self.database.listener.close)
        if heard == [] and self._may_sleep(time.monotonic(), resets_at):
            self._let_go(self._next_due(resets_at))
        else:
            self.database.start_all_anew()

    def _note_lost(self) -> bool:
        """The server has closed the connection of a worker that rests: a database that is suspended is left alone."""
        if not self.rest.is_resting:
            return False
        self._let_go(self._next_due(NEVER))
        return True

    def _let_go(self, wake_at: float) -> None:
        self._phase = Phase.ASLEEP
        self.next_run = NEVER
        seconds = wake_at - time.monotonic()
        self.wake_at, self._wake_at_clock = wake_at, time.time() + seconds
        self.rest.sleep()
        self.scheduler.sleep()
        for each in (self.slots, *self._threads):
            each.rest()
        self.database.sleep()
        with suppress(Exception):  # a connection may break while it is closed
            connections.close_all()  # of this thread: those of the start
        until = f"for {duration(seconds)}, or " if seconds < NEVER else ""
        known = seconds if seconds < NEVER else None
        emit("worker.asleep", f"Nothing to do: asleep {until}until it is woken.", seconds=known)
