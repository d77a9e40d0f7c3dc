"""What any worker does now and then: prune finished jobs, expired cache rows and sessions, forget dead workers."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import connections, router, transaction

from pgonly_django.cache.prune import prunable_databases
from pgonly_django.cache.prune import prune_expired as prune_cache
from pgonly_django.database.connect import SET_LOCAL, OwnConnection, connect
from pgonly_django.events import emit
from pgonly_django.models import Session
from pgonly_django.models.pruning import Kept
from pgonly_django.queue import workers
from pgonly_django.queue.prune import prune
from pgonly_django.sessions import prune_expired as prune_sessions

# Soon again while there is something to do, seldom when there was nothing.
BUSY_SECONDS, IDLE_SECONDS = 60.0, 300.0
BATCH = 1000
PAUSE_BETWEEN_BATCHES_SECONDS = 0.05
LOCK_WAIT = "2s"
KEPT_NAMED = 10
FORGET_WORKERS_AFTER = timedelta(days=1)


class Maintenance(threading.Thread):
    """Opens a connection for each round and none in between. Every duty is a bounded batch that skips locked rows,
    so that any number of workers may do it at once."""

    def __init__(self, alias: str) -> None:
        super().__init__(name="pgonly-maintenance", daemon=True)
        self.alias = alias
        self._over = threading.Event()

    def end(self) -> None:
        self._over.set()

    def run(self) -> None:
        pause = BUSY_SECONDS
        while not self._over.wait(pause * random.uniform(0.8, 1.2)):  # noqa: S311 - workers out of step
            pause = BUSY_SECONDS if self.run_once() else IDLE_SECONDS

    def run_once(self) -> int:
        """One round of all duties; one that fails keeps no other from being done. Returns how many rows went."""
        duties = {
            "workers": self._forget_workers,
            "jobs": self._prune_jobs,
            "sessions": self._prune_sessions,
            "caches": self._prune_caches,
        }
        rows = sum(_tried(what, duty) for what, duty in duties.items())
        _tried("connections", connections.close_all)
        return rows

    def _forget_workers(self) -> int:
        with self._connect() as connection:
            workers.forget(connection, FORGET_WORKERS_AFTER)
        return 0

    def _prune_jobs(self) -> int:
        with self._connect() as connection:
            return self._in_batches(lambda: self._prune_batch(connection))

    def _prune_batch(self, connection: OwnConnection) -> int:
        deleted, kept = prune(connection, BATCH)
        if kept:
            _emit_kept(kept)
        return deleted + len(kept)

    @contextmanager
    def _connect(self) -> Iterator[OwnConnection]:
        with connect(self.alias, application_name="pgonly maintenance") as connection:
            connection.keep_own_terms(lock_wait=LOCK_WAIT)
            yield connection

    def _prune_caches(self) -> int:
        aliases = sorted(prunable_databases(self.alias))
        return sum(_tried(f"the cache in {alias!r}", partial(self._prune_cache, alias)) for alias in aliases)

    def _prune_cache(self, alias: str) -> int:
        with connections[alias].execute_wrapper(_in_its_own_time):
            return self._in_batches(lambda: prune_cache(alias, BATCH))

    def _prune_sessions(self) -> int:
        """Where they are, which may be another database; none where a site uses another engine on another kind."""
        alias = router.db_for_write(Session)
        if connections[alias].vendor != "postgresql" or not router.allow_migrate_model(alias, Session):
            return 0
        with connections[alias].execute_wrapper(_in_its_own_time):
            return self._in_batches(lambda: prune_sessions(alias, BATCH))

    def _in_batches(self, delete: Callable[[], int]) -> int:
        total = count = delete()
        while count >= BATCH and not self._over.wait(PAUSE_BETWEEN_BATCHES_SECONDS):
            count = delete()
            total += count
        return total


def _emit_kept(kept: list[Kept]) -> None:
    named = "; ".join(f"{job.id}: {job.reason}" for job in kept[:KEPT_NAMED])
    message = f"{len(kept)} finished job(s) cannot be deleted and are kept for a day more. {named}"
    emit("worker.jobs_kept", message, level=logging.WARNING, jobs=[job.id for job in kept])


def _in_its_own_time(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
    """A timeout of the role or the database is meant for requests: a batch that it cancels is cancelled each round."""
    connection = context["connection"]
    with transaction.atomic(using=connection.alias):
        connection.connection.execute(SET_LOCAL, {"wait": LOCK_WAIT})
        return execute(sql, params, many, context)


def _tried(what: str, duty: Callable[[], int | None]) -> int:
    try:
        return duty() or 0
    except BaseException as error:  # noqa: BLE001 - a router of the site's may even exit; the thread goes on regardless
        message = f"Pruning {what} failed, next round in {IDLE_SECONDS:g} s: {str(error).strip()}"
        emit("worker.maintenance_failed", message, level=logging.WARNING)
        return 0
