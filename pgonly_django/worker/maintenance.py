"""The thread for the duties that have time: worker/duties.py has them, and `duties()` there lists them."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from threading import Event
from typing import Any, ParamSpec

from django.db import connections, models, router, transaction

from pgonly_django.database.connect import SET_LOCAL, OwnConnection, connect
from pgonly_django.events import TakesEvents, emit
from pgonly_django.worker.django_connections import close_pools
from pgonly_django.worker.inbox import MaintenanceChecked, Tell
from pgonly_django.worker.timers import NEVER

P = ParamSpec("P")
Connect = Callable[[], OwnConnection]

BATCH = 1000
PAUSE_SECONDS = 0.05
BUSY_SECONDS = 60.0  # a duty that has found something to do comes again so soon
KEEP_OPEN_SECONDS = 10.0  # a connection that is needed again sooner stays open
AFTER_SLEEP_SECONDS = 10.0  # until a round that has become due in a sleep
LOCK_WAIT = "2s"


class Duty:
    """What the thread does now and then. Any number of workers may do it at once: rows that are locked are skipped."""

    name: str  # as its failure is logged: "<name> failed"
    interval = 300.0  # seconds until it comes again when it has found nothing to do
    may_not_wait = False  # until a sleep of the worker is over
    resets_in: float | None = None  # seconds: all that it has found is to be done then

    def run_once(self, jobs: Connect, over: Event) -> int:
        """Do it once. Returns how many rows it changed; more than 0 brings it back sooner.

        `jobs()` is the connection to the jobs' database, opened when it is needed: that database may be away while
        another one, of sessions or a cache, can be pruned. `over` is set when the worker ends.
        """
        raise NotImplementedError


def tried(what: str, work: Callable[P, int | None], *args: P.args, **kwargs: P.kwargs) -> int:
    """`work(...)`; 0 where it fails, which is logged and keeps nothing else from being done."""
    try:
        return work(*args, **kwargs) or 0
    except BaseException as error:  # noqa: BLE001 - a router of the project may even exit
        message = f"{what} failed, it is tried again later: {str(error).strip()}"
        emit("worker.maintenance_failed", message, level=logging.WARNING)
        return 0


def in_batches(delete: Callable[[], int], over: Event) -> int:
    """Call `delete` until it deletes less than a BATCH, or the worker ends. Returns how many rows it deleted."""
    total = count = delete()
    while count >= BATCH and not over.wait(PAUSE_SECONDS):
        count = delete()
        total += count
    return total


def database_of(model: type[models.Model]) -> str | None:
    """The database where the router keeps the rows of `model`; None where that has no such table."""
    alias = router.db_for_write(model)
    is_there = connections[alias].vendor == "postgresql" and router.allow_migrate_model(alias, model)
    return alias if is_there else None


@contextmanager
def no_timeout(alias: str) -> Iterator[None]:
    """For statements on Django's connection. A statement_timeout of the role or the database is meant for requests: it
    would cancel the same batch in every round."""

    def execute_in_transaction(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        with transaction.atomic(using=alias):
            context["connection"].connection.execute(SET_LOCAL, {"wait": LOCK_WAIT})
            return execute(sql, params, many, context)

    with connections[alias].execute_wrapper(execute_in_transaction):
        yield


class Maintenance(threading.Thread):
    """`tell` takes messages for the main loop, from this thread."""

    hurried_seconds = 0.5  # between two runs of a duty that is wanted soon

    def __init__(self, alias: str, duties: Sequence[Duty], tell: Tell = lambda _message: None) -> None:
        super().__init__(name="pgonly-maintenance", daemon=True)
        self.alias = alias
        self._tell = tell
        self._is_asleep = self._is_asked = self._closes_pools = False
        self._woken_at = float("-inf")
        self._over, self._wanted = threading.Event(), threading.Event()
        self.takes_events: TakesEvents = nullcontext  # those of this thread
        self._duties = duties
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
        """Do the duties that may not wait until a sleep is over, and tell what they have found. For any thread."""
        self._is_asked = True
        self._wanted.set()

    def sleep(self) -> None:
        """Close what the pools of the process keep open. No round comes until wake(). For any thread."""
        self._is_asleep = self._closes_pools = True
        self._wanted.set()

    def wake(self) -> None:
        """Continue with the rounds, soon with those that have become due. For any thread."""
        if self._is_asleep:
            self._is_asleep = False
            self._woken_at = time.monotonic()
            self._wanted.set()

    def run(self) -> None:
        with self.takes_events():
            self._work()

    def _work(self) -> None:
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
        needed = [duty for duty in self._duties if duty.may_not_wait and self._is_needed(duty)]
        resets_in = needed[0].resets_in if len(needed) == 1 else None
        is_calm = not needed or resets_in is not None
        self._tell(MaintenanceChecked(is_calm, NEVER if resets_in is None else resets_in))

    def _is_needed(self, duty: Duty) -> bool:
        """Whether it has found something to do, or failed."""
        found = [1]

        def run() -> None:
            found[0] = duty.run_once(self._open, self._over)

        tried(duty.name, run)
        return found[0] > 0

    def _run_hurried(self) -> None:
        """Those that run_soon() asked for, at most once in hurried_seconds: failures may come by the thousand."""
        while self._hurried and not self._over.is_set():
            kind, done = self._hurried.popitem()
            for duty in self._duties:
                if isinstance(duty, kind):
                    self._run(duty)
            done()
            self._over.wait(self.hurried_seconds)

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
