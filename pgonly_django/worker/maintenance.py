"""The thread for the duties that have time. To add one, write its class in worker/duties/ and its line in duties()."""

import random
import threading
import time
from collections.abc import Callable, Mapping

from django.db import connections

from pgonly_django.database.connect import OwnConnection, connect
from pgonly_django.worker.duties.declare import Declare
from pgonly_django.worker.duties.duty import BUSY_SECONDS, LOCK_WAIT, Duty, tried
from pgonly_django.worker.duties.forget_workers import ForgetWorkers
from pgonly_django.worker.duties.prune_caches import PruneCaches
from pgonly_django.worker.duties.prune_costs import PruneCosts
from pgonly_django.worker.duties.prune_job_stats import PruneJobStats
from pgonly_django.worker.duties.prune_jobs import PruneJobs
from pgonly_django.worker.duties.prune_sessions import PruneSessions
from pgonly_django.worker.duties.send_dead_letters import SendDeadLetters
from pgonly_django.worker.duties.settle_budgets import SettleBudgets
from pgonly_django.worker.idle_connections import close_pools
from pgonly_django.worker.poll_timer import NEVER

HURRIED_SECONDS = 0.5  # between two runs of a duty that is wanted soon
KEEP_OPEN_SECONDS = 10.0  # a connection that is needed again sooner stays open
AFTER_SLEEP_SECONDS = 10.0  # until a round that has become due in a sleep
NEEDED_SOON = (SendDeadLetters, SettleBudgets)  # these may not wait until a sleep is over
# Payloads for this worker alone, which answer check(). "maintenance-held <seconds>": nothing but jobs that a budget
# holds, until the first of these budgets begins a new period.
CALM, NEEDED, HELD = "maintenance-calm", "maintenance-needed", "maintenance-held"


def duties(alias: str, tell: Callable[[str], None]) -> list[Duty]:
    return [
        SendDeadLetters(alias, tell),
        ForgetWorkers(),
        PruneJobs(),
        PruneJobStats(),
        PruneSessions(),
        PruneCaches(alias),
        PruneCosts(),
        SettleBudgets(alias),
        Declare(alias),
    ]


class Maintenance(threading.Thread):
    """`tell` takes payloads for this worker, from this thread."""

    def __init__(self, alias: str, tell: Callable[[str], None] = lambda _payload: None) -> None:
        super().__init__(name="pgonly-maintenance", daemon=True)
        self.alias = alias
        self._tell = tell
        self._is_asleep = self._is_asked = self._closes_pools = False
        self._woken_at = float("-inf")
        self._over, self._wanted = threading.Event(), threading.Event()
        self._duties = duties(alias, tell)
        self._hurried: dict[type[Duty], Callable[[], None]] = {}
        self._connection: OwnConnection | None = None

    def end(self) -> None:
        self._over.set()
        self._wanted.set()

    def run_soon(self, kind: type[Duty], done: Callable[[], None]) -> None:
        """Do this duty within a second, and then call `done()`. For any thread."""
        self._hurried[kind] = done
        self._wanted.set()

    def check(self) -> None:
        """Do the duties that may not wait until a sleep is over, and tell CALM, NEEDED or HELD. For any thread."""
        self._is_asked = True
        self._wanted.set()

    def sleep(self) -> None:
        """Close what the pools of the process keep open. No round comes until wake(). For any thread."""
        self._is_asleep = self._closes_pools = True
        self._wanted.set()

    def wake(self) -> None:
        """Go on with the rounds, soon with those that have become due. For any thread."""
        if self._is_asleep:
            self._is_asleep = False
            self._woken_at = time.monotonic()
            self._wanted.set()

    def run(self) -> None:
        due_at = dict.fromkeys(self._duties, time.monotonic() + BUSY_SECONDS * _out_of_step())
        while not self._over.is_set():
            pause = self._next_round(due_at) - time.monotonic()
            if pause <= 0 or self._wanted.wait(min(pause, threading.TIMEOUT_MAX)):
                self._wanted.clear()
            self._run_hurried()
            if self._is_asked:
                self._check()
            if self._closes_pools:
                self._closes_pools = False
                tried("Closing idle connections", close_pools)
            if time.monotonic() >= self._next_round(due_at):
                self._run_due(due_at)
            if self._next_round(due_at) - time.monotonic() > KEEP_OPEN_SECONDS:
                self._close()
        self._close()

    def _next_round(self, due_at: Mapping[Duty, float]) -> float:
        if self._is_asleep:
            return NEVER
        return max(min(due_at.values()), self._woken_at + AFTER_SLEEP_SECONDS)

    def _run_due(self, due_at: dict[Duty, float]) -> None:
        now = time.monotonic()
        factor = _out_of_step()
        for duty in [duty for duty, at in due_at.items() if at <= now and not self._over.is_set()]:
            pause = min(duty.interval, BUSY_SECONDS) if self._run(duty) else duty.interval
            due_at[duty] = now + pause * factor

    def _check(self) -> None:
        self._is_asked = False
        soon = [duty for duty in self._duties if isinstance(duty, NEEDED_SOON)]
        match [duty for duty in soon if self._is_needed(duty)]:
            case []:
                self._tell(CALM)
            case [SettleBudgets(resets_in=float(seconds))]:
                self._tell(f"{HELD} {seconds}")
            case _:
                self._tell(NEEDED)

    def _is_needed(self, duty: Duty) -> bool:
        """Whether it has found something to do, or failed."""
        found = [1]

        def run() -> None:
            found[0] = duty.run_once(self._open, self._over)

        tried(duty.name, run)
        return found[0] > 0

    def _run_hurried(self) -> None:
        """Those that run_soon() asked for, at most once in HURRIED_SECONDS: failures may come by the thousand."""
        while self._hurried and not self._over.is_set():
            kind, done = self._hurried.popitem()
            for duty in self._duties:
                if isinstance(duty, kind):
                    self._run(duty)
            done()
            self._over.wait(HURRIED_SECONDS)

    def run_once(self) -> int:
        """All duties once; one that fails keeps no other from being done. Returns how many rows they changed."""
        rows = sum(map(self._run, self._duties))
        self._close()
        return rows

    def _run(self, duty: Duty) -> int:
        return tried(duty.name, duty.run_once, self._open, self._over)

    def _open(self) -> OwnConnection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self.alias, application_name="pgonly maintenance")
            self._connection.apply_session_settings(lock_wait=LOCK_WAIT)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        tried("Closing Django's connections", connections.close_all)


def _out_of_step() -> float:
    """So that workers which start together do not come together."""
    return random.uniform(0.8, 1.2)  # noqa: S311 - no secret
