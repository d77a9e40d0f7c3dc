"""The thread for the duties that have time. To add one, write its class in worker/duties/ and its line in duties()."""

import random
import threading
import time
from collections.abc import Callable

from django.db import connections

from pgonly_django.database.connect import OwnConnection, connect
from pgonly_django.worker.duties.duty import BUSY_SECONDS, LOCK_WAIT, Duty, tried
from pgonly_django.worker.duties.forget_workers import ForgetWorkers
from pgonly_django.worker.duties.prune_caches import PruneCaches
from pgonly_django.worker.duties.prune_costs import PruneCosts
from pgonly_django.worker.duties.prune_jobs import PruneJobs
from pgonly_django.worker.duties.prune_sessions import PruneSessions
from pgonly_django.worker.duties.send_dead_letters import SendDeadLetters
from pgonly_django.worker.duties.settle_budgets import SettleBudgets

HURRIED_SECONDS = 0.5  # between two runs of a duty that is wanted soon
KEEP_OPEN_SECONDS = 10.0  # a connection that is needed again sooner stays open


def duties(alias: str, tell: Callable[[str], None]) -> list[Duty]:
    return [
        SendDeadLetters(alias, tell),
        ForgetWorkers(),
        PruneJobs(),
        PruneSessions(),
        PruneCaches(alias),
        PruneCosts(),
        SettleBudgets(alias),
    ]


class Maintenance(threading.Thread):
    """`tell` takes payloads for this worker, from this thread."""

    def __init__(self, alias: str, tell: Callable[[str], None] = lambda _payload: None) -> None:
        super().__init__(name="pgonly-maintenance", daemon=True)
        self.alias = alias
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

    def run(self) -> None:
        due_at = dict.fromkeys(self._duties, time.monotonic() + BUSY_SECONDS * _out_of_step())
        while not self._over.is_set():
            self._wanted.wait(max(min(due_at.values()) - time.monotonic(), 0.0))
            self._wanted.clear()
            self._run_hurried()
            now, factor = time.monotonic(), _out_of_step()
            for duty in [duty for duty, at in due_at.items() if at <= now and not self._over.is_set()]:
                pause = min(duty.interval, BUSY_SECONDS) if self._run(duty) else duty.interval
                due_at[duty] = now + pause * factor
            if min(due_at.values()) - time.monotonic() > KEEP_OPEN_SECONDS:
                self._close()
        self._close()

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
