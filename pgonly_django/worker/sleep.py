"""The sleep of a worker (--sleep-after): it has no connection, until a due time, a POST to /wake or --poll-seconds. It
falls asleep when it has had nothing to do for that time, and no job of any worker runs: while one does, another worker
has to notice its worker's death. Times are time.monotonic(), which may stand still while the machine is suspended; so
time.time() counts as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol
from uuid import UUID

from django.db import connections

from pgonly_django.database import notify
from pgonly_django.duties import BUSY_SECONDS
from pgonly_django.events import emit
from pgonly_django.queue import liveness
from pgonly_django.wording import duration
from pgonly_django.worker.claim_plan import ClaimPlan
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.heartbeat import Heartbeat
from pgonly_django.worker.housekeeper import Housekeeper
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.stopping import StopRequests
from pgonly_django.worker.timers import NEVER, Timer

# Between two looks whether it may sleep: while its own timers have something to do, and while a job runs elsewhere.
LOOK_SECONDS, RUNNING_SECONDS = 1.0, 15.0
REASONS = {"woken": "a POST to /wake came", "due": "it is time to look"}
SHORTEST_SECONDS = 5.0  # for less it stays awake


class Rests(Protocol):
    """Has threads whose connections are closed by rest()."""

    def rest(self) -> None: ...


class Sleep(Timer):
    """The sleep, used by the main loop alone."""

    def __init__(
        self, worker_id: UUID, options: WorkerOptions, database: WorkerConnection, plan: ClaimPlan,
        heartbeat: Heartbeat, housekeeper: Housekeeper, stop_requests: StopRequests, others: Sequence[Rests], *,
        is_idle: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`is_idle` says whether the main loop has nothing to do."""
        self.worker_id, self.options, self.database = worker_id, options, database
        self._plan, self._stop_requests = plan, stop_requests
        self._heartbeat, self._housekeeper = heartbeat, housekeeper
        self._others, self._is_idle = others, is_idle
        self.is_asleep = False
        self._is_checking = False  # the housekeeper looks whether it is needed
        self._heard_at = time.monotonic()
        self._only_looks = False  # since it woke up because it was time
        self.wake_at = self._wake_at_clock = NEVER
        super().__init__(NEVER if options.sleep_after is None else self._heard_at + options.sleep_after)

    def note_news(self) -> None:
        """Notes that there may be something to do."""
        if not self._only_looks:
            self._heard_at = time.monotonic()
        if self.is_asleep:
            self._end("woken")

    def goes_on(self, now: float) -> bool:
        """Returns whether it still sleeps. It wakes up when it is time."""
        if self.is_asleep and (now >= self.wake_at or time.time() >= self._wake_at_clock):
            self._only_looks = True
            self._end("due")
        return self.is_asleep

    def _end(self, reason: str) -> None:
        """Connects again, and looks for everything: first of all, before a claim, whether it was asked to stop."""
        self.is_asleep = False
        self.at = time.monotonic() + LOOK_SECONDS
        self.database.wake()
        self._stop_requests.hear_of(notify.ANY_WORKER)
        self._plan.restart()
        self._heartbeat.wake()
        self._housekeeper.wake()
        self._housekeeper.check()  # jobs that a budget has held may continue
        emit("worker.awake", f"Awake again: {REASONS[reason]}.", reason=reason)

    # How it falls asleep.

    def run(self) -> None:
        """Falls asleep, if it may. After a look that was due and has found nothing, that is at once."""
        now, self._only_looks = time.monotonic(), False
        if now < self._quiet_until:
            self.at = self._quiet_until
            return
        if self._heartbeat.some_running:
            self.at = now + RUNNING_SECONDS
            return
        self.at = now + LOOK_SECONDS
        if not self._is_checking and self._may_sleep(now):
            self._is_checking = True
            self._housekeeper.check()

    def note_checked(self) -> None:
        """Notes that the housekeeper has looked."""
        if not self._is_checking:
            return
        self._is_checking = False
        now = time.monotonic()
        if self._housekeeper.needed_at <= now:
            self.at = now + BUSY_SECONDS
        elif now >= self._quiet_until and self._may_sleep(now):
            self._fall_asleep()

    @property
    def _quiet_until(self) -> float:
        assert self.options.sleep_after is not None
        return max(self._heard_at, self._plan.busy_at) + self.options.sleep_after

    def _may_sleep(self, now: float) -> bool:
        return self._is_idle() and self._next_due() - now >= SHORTEST_SECONDS

    def _next_due(self) -> float:
        """Returns when it has to wake up."""
        poll_at = NEVER if self.options.poll_seconds is None else time.monotonic() + self.options.poll_seconds
        return min(poll_at, self._housekeeper.needed_at, self._plan.next_known)

    def _fall_asleep(self) -> None:
        """Falls asleep, unless a NOTIFY came before LISTEN ended. From then on only a POST tells of new jobs."""
        self.at = time.monotonic() + LOOK_SECONDS
        if not self._heartbeat.sleep():
            return
        self.at = time.monotonic() + RUNNING_SECONDS
        answer = self.database.ask(lambda connection: liveness.fall_asleep(connection, self.worker_id))
        if answer is not None and answer.is_asleep:
            if answer.next_due_in_seconds is not None:
                self._plan.promotion.expect_due(answer.next_due_in_seconds)
            heard = self.database.listening.ask(self.database.listener.close)
            if heard == [] and self._may_sleep(time.monotonic()):
                self._let_go(self._next_due())
                return
            self.database.start_all_anew()
        self._heartbeat.wake()

    def _let_go(self, wake_at: float) -> None:
        self.is_asleep = True
        self.at = NEVER
        seconds = wake_at - time.monotonic()
        self.wake_at, self._wake_at_clock = wake_at, time.time() + seconds
        self._housekeeper.sleep()
        for each in self._others:
            each.rest()
        self.database.sleep()
        with suppress(Exception):  # a connection may break while it is closed
            connections.close_all()  # of this thread: those of the start
        until = f"for {duration(seconds)}, or " if seconds < NEVER else ""
        known = seconds if seconds < NEVER else None
        emit("worker.asleep", f"Nothing to do: asleep {until}until it is woken.", seconds=known)
