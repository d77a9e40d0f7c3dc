"""The thread for the duties that have time: worker/duties.py has them, and `duties()` there lists them."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from django.db import connections, models, router, transaction

from pgonly_django.database.connect import SET_LOCAL, OwnConnection, connect
from pgonly_django.events import TakesEvents, emit
from pgonly_django.worker.django_connections import close_pools
from pgonly_django.worker.inbox import MaintenanceChecked, Tell
from pgonly_django.worker.timers import NEVER

BATCH = 1000
PAUSE_SECONDS = 0.05
BUSY_SECONDS = 60.0  # a duty that has found something to do comes again so soon
KEEP_OPEN_SECONDS = 10.0  # a connection that is needed again sooner stays open
AFTER_SLEEP_SECONDS = 10.0  # until a round that has become due in a sleep
LOCK_WAIT = "2s"


class Duty:
    """A duty of the thread. Any number of workers may do it at once: rows that are locked are skipped."""

    name: str  # as its failure is logged: "<name> failed"
    interval = 300.0  # seconds until it comes again when it has found nothing to do
    may_not_wait = False  # until a sleep of the worker is over
    resets_in: float | None = None  # seconds: all that it has found is to be done then

    def run_once(self, thread: Maintenance) -> int:
        """Does it once, with the means of `thread`. Returns how many rows it changed; more than 0 brings it back
        sooner."""
        raise NotImplementedError


def tried(what: str, work: Callable[[], int | None], *, failed: int = 0) -> int:
    """Calls `work()`. Returns `failed` where it raises anything, which is logged and stops nothing else."""
    try:
        return work() or 0
    except BaseException as error:  # noqa: BLE001 - a router of the project may even exit
        message = f"{what} failed, trying again later: {str(error).strip()}"
        emit("worker.maintenance_failed", message, level=logging.WARNING)
        return failed


def database_of(model: type[models.Model]) -> str | None:
    """Returns the database where the router keeps the rows of `model`; None where that has no such table."""
    alias = router.db_for_write(model)
    is_there = connections[alias].vendor == "postgresql" and router.allow_migrate_model(alias, model)
    return alias if is_there else None


@contextmanager
def no_timeout(alias: str) -> Iterator[None]:
    """Serves statements on Django's connection. A statement_timeout of the role or the database is meant for requests:
    it would cancel the same batch in every round."""

    def execute_in_transaction(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        with transaction.atomic(using=alias):
            context["connection"].connection.execute(SET_LOCAL, {"wait": LOCK_WAIT})
            return execute(sql, params, many, context)

    with connections[alias].execute_wrapper(execute_in_transaction):
        yield


class Maintenance(threading.Thread):
    """The maintenance thread. `tell` takes its messages for the main loop. `over` is set when the worker ends."""

    hurried_seconds = 0.5  # between two runs of a duty that is wanted soon

    def __init__(self, alias: str, duties: Sequence[Duty], tell: Tell = lambda _message: None) -> None:
        super().__init__(name="pgonly-maintenance", daemon=True)
        self.alias, self.tell = alias, tell
        self.over, self._wanted = threading.Event(), threading.Event()
        self.takes_events: TakesEvents = nullcontext  # those of this thread
        self._due_at = dict.fromkeys(duties, time.monotonic() + BUSY_SECONDS * _out_of_step())
        self._is_asleep = self._is_asked = self._closes_pools = False
        self._woken_at = float("-inf")
        self._hurried: dict[type[Duty], Callable[[], None]] = {}
        self._connection: OwnConnection | None = None

    def end(self) -> None:
        self.over.set()
        self._wanted.set()

    def run_soon(self, kind: type[Duty], done: Callable[[], None]) -> None:
        """Does this duty within a second, and then calls `done()`. For any thread."""
        self._hurried[kind] = done
        self._wanted.set()

    def check(self) -> None:
        """Does the duties that may not wait until a sleep is over, and tells what they have found. For any thread."""
        self._is_asked = True
        self._wanted.set()

    def sleep(self) -> None:
        """Closes what the pools of the process keep open. No round comes until wake(). For any thread."""
        self._is_asleep = self._closes_pools = True
        self._wanted.set()

    def wake(self) -> None:
        """Continues with the rounds, soon with those that have become due. For any thread."""
        if self._is_asleep:
            self._is_asleep = False
            self._woken_at = time.monotonic()
            self._wanted.set()

    def run_once(self) -> int:
        """All duties once; one that fails keeps no other from being done. Returns how many rows they changed."""
        rows = sum(map(self._run, self._due_at))
        self._close()
        return rows

    # For the duties.

    def connection(self) -> OwnConnection:
        """Returns the connection to the jobs' database, opened when it is needed: that database may be unavailable
        while another one, of sessions or a cache, can be pruned."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self.alias, application_name="pgonly maintenance")
            self._connection.apply_session_settings(lock_wait=LOCK_WAIT)
        return self._connection

    def in_batches(self, work: Callable[[], int]) -> int:
        """Calls `work` until it finds less than a BATCH, or the worker ends. Returns how many rows it found."""
        total = count = work()
        while count >= BATCH and not self.over.wait(PAUSE_SECONDS):
            count = work()
            total += count
        return total

    # The thread.

    def run(self) -> None:
        with self.takes_events():
            while not self.over.is_set():
                self._turn()
            self._close()

    def _turn(self) -> None:
        pause = max(self._next_round() - time.monotonic(), 0.0)
        self._wanted.wait(min(pause, threading.TIMEOUT_MAX))
        self._wanted.clear()
        self._run_hurried()
        if self._is_asked:
            self._check()
        if self._closes_pools:
            self._closes_pools = False
            tried("Closing idle connections", close_pools)
        if time.monotonic() >= self._next_round():
            self._run_due()
        if self._next_round() - time.monotonic() > KEEP_OPEN_SECONDS:
            self._close()

    def _next_round(self) -> float:
        if self._is_asleep:
            return NEVER
        return max(min(self._due_at.values()), self._woken_at + AFTER_SLEEP_SECONDS)

    def _run_due(self) -> None:
        now, factor = time.monotonic(), _out_of_step()
        for duty, at in self._due_at.items():
            if at <= now and not self.over.is_set():
                pause = min(duty.interval, BUSY_SECONDS) if self._run(duty) else duty.interval
                self._due_at[duty] = now + pause * factor

    def _check(self) -> None:
        self._is_asked = False
        needed = [duty for duty in self._due_at if duty.may_not_wait and self._run(duty, failed=1)]
        resets_in = needed[0].resets_in if len(needed) == 1 else None
        is_calm = not needed or resets_in is not None
        self.tell(MaintenanceChecked(is_calm, NEVER if resets_in is None else resets_in))

    def _run_hurried(self) -> None:
        """Runs those that run_soon() asked for, at most once in hurried_seconds: failures may come by the thousand."""
        while self._hurried and not self.over.is_set():
            kind, done = self._hurried.popitem()
            for duty in self._due_at:
                if isinstance(duty, kind):
                    self._run(duty)
            done()
            self.over.wait(self.hurried_seconds)

    def _run(self, duty: Duty, *, failed: int = 0) -> int:
        return tried(duty.name, partial(duty.run_once, self), failed=failed)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        tried("Closing Django's connections", connections.close_all)


def _out_of_step() -> float:
    """Returns a time that differs between workers, so that those that start together do not come together."""
    return random.uniform(0.8, 1.2)  # noqa: S311 - no secret
