"""What a worker does now and then besides jobs: each room has its duties, and the housekeeper runs them."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from pgonly_django.events import emit

NEVER = float("inf")
BATCH = 1000  # rows
BETWEEN_BATCHES_SECONDS = 0.05
BUSY_SECONDS = 60.0  # a duty that has found something to do comes again so soon


NOBODY = UUID(int=0)


def _nothing(_: Any = None) -> Any:
    return None


@dataclass(frozen=True)
class Workplace:
    """The worker, as its duties know it. All but the first may be left out by who runs a duty by hand."""

    database: str
    worker_id: UUID = NOBODY
    lease_for: timedelta = timedelta(seconds=60)
    tell: Callable[[Any], object] = _nothing  # takes the payload of a NOTIFY for the main loop
    listens: Callable[[], bool] = lambda: True
    # Returns a connection (database/connect.py) to the database of the jobs, which is opened at the first call: it may
    # be unavailable while another one, of sessions or a cache, can be pruned.
    connect: Callable[[], Any] = _nothing
    is_over: Callable[[], bool] = lambda: False
    # Called in another thread where run() of this duty hangs and could continue without what hangs.
    go_on: Callable[[Duty], object] = _nothing


class Duty:
    """Something to do now and then. Any number of workers may do it at once: they pass over rows that are locked."""

    name: str  # as its failure is logged: "<name> failed"
    interval = 300.0  # seconds until it comes again when it has found nothing to do, or has failed
    hears: Collection[str] = ()  # the kinds of NOTIFY (database/notify.py) that make it due
    rest_seconds = 0.0  # from one run of it to the next, at least
    # It enqueues jobs when it is time: a burst does what is due at its start, and a worker that stops nothing more.
    enqueues = False
    is_first = False  # it is due when the worker starts
    asks_before_sleep = False  # it runs before a worker falls asleep, and after it woke up
    # When a worker that sleeps has to wake up for it, by time.monotonic().
    needed_at = NEVER
    has_more = False  # the last run has left something of what it was asked to do

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace

    def hear(self, name: str) -> None:
        """Called in the main loop when a NOTIFY of one of its kinds has come, with the name that this has."""

    def run(self) -> float:
        """Does it once. Returns in how many seconds it is due again. It may raise anything."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> float:
        """Called when run() has raised. Returns in how many seconds it is tried again."""
        note_failed(self.name, error)
        if self.asks_before_sleep:
            self.needed_at = time.monotonic()
        return self.interval * out_of_step()

    def rest(self) -> None:
        """Called when the worker falls asleep."""

    def again_in(self, found: int) -> float:
        """Returns the seconds until it is due again after a run that has found so many rows, a BATCH at most."""
        self.has_more = found >= BATCH
        if self.has_more:
            return BETWEEN_BATCHES_SECONDS
        return (min(self.interval, BUSY_SECONDS) if found else self.interval) * out_of_step()


class Pruning(Duty):
    """Deletes rows of one kind whose time is over, in batches."""

    def __init__(self, workplace: Workplace) -> None:
        super().__init__(workplace)
        self.deleted: Counter[str] = Counter()  # by database, since tell() was called

    def run(self) -> float:
        found = self.prune()
        if found < BATCH:
            for database, count in self.deleted.items():
                self.tell(count, database)
            self.deleted.clear()
        return self.again_in(found)

    def prune(self) -> int:
        """Deletes one batch. Returns how many rows it has looked at: fewer than a BATCH when no more are left."""
        raise NotImplementedError

    def tell(self, count: int, database: str) -> None:
        """Tells how many rows were deleted there, when no more are left."""


def tried(what: str, work: Callable[[], int | None], *, failed: int = 0) -> int:
    """Calls `work()`. Returns `failed` where it raises anything, which is logged and stops nothing else."""
    try:
        return work() or 0
    except BaseException as error:  # noqa: BLE001 - a router of the project may even exit
        note_failed(what, error)
        return failed


def note_failed(what: str, error: BaseException) -> None:
    message = f"{what} failed, trying again later: {str(error).strip()}"
    emit("worker.maintenance_failed", message, level=logging.WARNING)


def out_of_step() -> float:
    """Returns a factor that differs between workers, so that those that start together do not come together."""
    return random.uniform(0.8, 1.2)  # noqa: S311 - no secret


def in_seconds(at: float) -> float:
    return max(at - time.monotonic(), 0.0)
