"""Runs the job up to its end, in a process that has no other work. Called by child.py."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import ProgrammingError, connections, router
from django.db.models import F
from django.db.models.functions import Coalesce

from pgonly_django.compat import uuid7
from pgonly_django.context.run import Run
from pgonly_django.database.connect import connect
from pgonly_django.models import CacheEntry, CacheLock, DurableCacheEntry, LimiterSlot, LimiterWaiter
from pgonly_django.models.job import WAITING, ClockTimestamp, Job, State
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.queue.finish import Finish, finish_statements
from pgonly_django.queue.rescue import rescue
from pgonly_django.testing.resumable.orders import Order
from pgonly_django.testing.resumable.saves import Saves, WatchedContext, counting
from pgonly_django.worker import forked_child
from pgonly_django.worker.executor import Executor
from pgonly_django.worker.finishes import WorkerFacts
from pgonly_django.worker.outcomes import Ended
from pgonly_django.worker.output import write_last

LEASE = timedelta(days=1)  # no heartbeat renews it
NONE = timedelta(0)
LEASES: tuple[tuple[Any, str], ...] = (
    (LimiterSlot, "expires_at"),
    (LimiterWaiter, "expires_at"),
    (CacheLock, "expires_at"),
    (CacheEntry, "claimed_until"),
    (DurableCacheEntry, "claimed_until"),
)
RESCUE_SECONDS = 30.0


def run_job(order: Order) -> None:
    """Run the job of this order until it is over or held: retries and snoozes run at once."""
    forked_child.prepare({})  # a process that the job forks ends where it comes back out of the job
    for alias, name in order.names.items():
        database = connections.settings[alias]
        database["NAME"] = database["TEST"]["NAME"] = name
    if order.setup is not None:
        found(order.setup)()
    saves = WatchedContext.saves = Saves(order.marks, order.kill_at)
    for call, path in order.paid.items():
        _count(saves, call, path)
    runner = _Runner(order.alias, UUID(order.job_id), saves)
    while runner.run_once():
        pass


class _Runner:
    def __init__(self, alias: str, job_id: UUID, saves: Saves) -> None:
        self._alias, self._job_id, self._saves = alias, job_id, saves
        self._worker_id = uuid7()
        self._ended: list[Ended] = []
        facts = WorkerFacts(str(self._worker_id), "assert_resumable")
        self._executor = Executor(alias, facts, self._ended.append)
        self._executor.context_class = WatchedContext

    def run_once(self) -> bool:
        """Claim the job, run it, write its end. False when there is nothing to run."""
        job = self._claim()
        if job is None:
            return False
        asked_at = time.monotonic()
        run = Run(job, self._alias, asked_at, asked_at + LEASE.total_seconds())
        self._executor.look_who_listens()
        if self._executor.tasks.is_async(job):
            asyncio.run(self._executor.arun(run))
        else:
            self._executor.run(run)
        ended = self._ended.pop()
        if ended.finish is not None and not ended.committed:
            self._saves.reached("right before its end was written, when its function had returned")
            write_last(self._alias, run, ended.finish)
            self._write(ended.finish)
        return True

    def _claim(self) -> ClaimedJob | None:
        rows = Job.objects.using(self._alias).filter(pk=self._job_id)
        if rows.get().state == State.RUNNING:
            _end_leases()
            self._rescue()
        claimed = rows.filter(state__in=WAITING).update(
            state=State.RUNNING,
            lease_epoch=F("lease_epoch") + 1,
            worker_id=self._worker_id,
            lease_expires_at=ClockTimestamp() + LEASE,
            attempt=F("attempt") + 1,
            attempted_at=ClockTimestamp(),
            started_at=Coalesce("started_at", ClockTimestamp()),
        )
        if not claimed:
            return None
        columns = rows.values(*ClaimedJob._fields).get()
        empty = {name: columns[name] or None for name in ("kwargs", "errors")}
        return ClaimedJob(**{**columns, **empty, "id": str(self._job_id)})

    def _rescue(self) -> None:
        """As a worker does for the jobs of a dead one, without the wait for the end of the lease."""
        row = Job.objects.using(self._alias).filter(pk=self._job_id, state=State.RUNNING)
        row.update(lease_expires_at=ClockTimestamp() - timedelta(seconds=1))
        give_up_at = time.monotonic() + RESCUE_SECONDS
        with connect(self._alias, application_name="pgonly assert_resumable") as connection:
            while row.exists() and time.monotonic() < give_up_at:
                rescue(connection, NONE, NONE)  # skips rows that the dead process has not let go yet

    def _write(self, finish: Finish) -> None:
        with connections[self._alias].cursor() as cursor:
            for statement, parameters in finish_statements([finish]):
                cursor.execute(statement, parameters)


def _end_leases() -> None:
    """Of the limiters, locks and computations that the killed process held: those are over before a rescue, too."""
    for alias in connections:
        is_postgres = connections[alias].vendor == "postgresql"
        for model, column in LEASES if is_postgres else ():
            rows = model.objects.using(alias).filter(**{f"{column}__gt": ClockTimestamp()})
            if router.allow_migrate_model(alias, model):
                with suppress(ProgrammingError):  # this database has none of our tables
                    rows.update(**{column: ClockTimestamp()})


def found(path: str) -> Any:
    """What "module:name" names."""
    module, _, name = path.partition(":")
    value: Any = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _count(saves: Saves, call: str, path: str) -> None:
    """Replace the function where it stands by one that notes its calls."""
    holder_path, _, name = path.replace(":", ".").rpartition(".")
    module = path.partition(":")[0]
    rest = holder_path[len(module) + 1 :]
    holder = found(f"{module}:{rest}") if rest else importlib.import_module(module)
    declared = inspect.getattr_static(holder, name)
    wrapped = counting(saves, call, getattr(holder, name))
    setattr(
        holder, name, type(declared)(wrapped) if isinstance(declared, staticmethod | classmethod) else wrapped
    )
