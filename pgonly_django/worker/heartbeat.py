"""The thread that keeps the leases: a connection of its own, so that no statement of the loop holds it up."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import psycopg
from psycopg import errors

from pgonly_django.context.run import Run, renewing
from pgonly_django.database import notify
from pgonly_django.database.connect import TRY_AGAIN, OwnConnection, connect
from pgonly_django.events import emit
from pgonly_django.models.job import FINISHED
from pgonly_django.queue import lease, workers
from pgonly_django.queue.rescue import end_transactions, rescue
from pgonly_django.worker.options import WorkerOptions

RECONNECT_SECONDS = (0.1, 2.0)
LOCK_WAIT = "2s"  # of a whole table: rows that are locked are skipped
AGAIN_SECONDS = 1.0  # after a beat that left no trace in the worker's row


class Held(Protocol):
    """What the heartbeat asks of the worker. All methods are called from the heartbeat's thread."""

    @property
    def reaches_postgres(self) -> bool: ...
    def held(self) -> Mapping[str, Run]: ...
    def wake_up(self, payload: str) -> None: ...
    def give_back_unknown(self, rows: Mapping[str, int]) -> None: ...
    def announce_end(self, job_id: str) -> None: ...


class Heartbeat(threading.Thread):
    def __init__(self, worker_id: UUID, options: WorkerOptions, worker: Held) -> None:
        super().__init__(name="pgonly-heartbeat", daemon=True)
        self.worker_id = worker_id
        self.options = options
        self.worker = worker
        self._over = threading.Event()
        self._unknown: dict[str, int] = {}
        self._beaten_at: float | None = None
        self._settled_at = 0.0
        self._pause = RECONNECT_SECONDS[0]
        self._connection: OwnConnection | None = None
        self._ends_of_any_role = True

    def end(self) -> None:
        self._over.set()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                self._connected()
            except Exception as error:  # noqa: BLE001 - without heartbeats every job here would be lost
                known = isinstance(error, psycopg.Error)
                message = f"Heartbeat: {str(error).strip() or type(error).__name__}"
                level = logging.WARNING if known else logging.ERROR
                emit("worker.heartbeat_failed", message, level=level, exc_info=not known)
                self._let_settle(time.monotonic())
                self._over.wait(self._pause)
                self._pause = min(self._pause * 2, RECONNECT_SECONDS[1])
            finally:
                self._close()

    def _connected(self) -> None:
        name = f"pgonly heartbeat {self.worker_id} {self.options.name}"
        connection = self._connection = connect(self.options.database, application_name=name)
        is_direct = connection.keep_own_terms(lock_wait=LOCK_WAIT)
        if not self._over.is_set():
            workers.register(connection, self.facts())
        next_beat = time.monotonic()
        while not self._over.wait(max(next_beat - time.monotonic(), 0.0)):
            if not is_direct and self.worker.reaches_postgres:
                is_direct = connection.keep_own_terms(lock_wait=LOCK_WAIT, is_direct=True)
            pause = self.options.heartbeat_seconds
            if not self.beat(connection):
                pause = min(pause, AGAIN_SECONDS)
            self._pause = RECONNECT_SECONDS[0]
            next_beat = time.monotonic() + pause

    def beat(self, connection: psycopg.Connection[Any]) -> bool:
        """Renew what is held, find what is not known, say that we live, rescue from those who do not.

        Whether the worker's row says now that it lives: not while somebody holds that locked.
        """
        runs = self.worker.held()
        before = time.monotonic()
        self._note_gap(before)
        is_renewed = self._renew(connection, runs, before)
        self._reconcile(connection)
        beat = workers.heartbeat(connection, self.worker_id, len(runs))
        self._note_gap(time.monotonic())
        if beat is None:
            workers.register(connection, self.facts())
        elif beat.some_lease_expired and before >= self._settled_at:
            self._rescue(connection)
        return is_renewed and beat is not None and beat.was_written

    def _renew(self, connection: psycopg.Connection[Any], runs: Mapping[str, Run], before: float) -> bool:
        """Not while the table is locked, as CREATE INDEX does for long: the worker has to say that it lives all the
        same, or the others would take its jobs."""
        leases = {job_id: run.job.lease_epoch for job_id, run in runs.items()}
        try:
            with renewing:
                still = {job_id for job_id, run in runs.items() if run.keeps_snapshot}
                answer = lease.renew(connection, leases, self.options.lease_for, still)
        except TRY_AGAIN as error:
            message = f"{len(runs)} lease(s) could not be renewed, trying again: {str(error).strip()}"
            emit("worker.leases_not_renewed", message, level=logging.WARNING)
            return False
        for job_id, run in runs.items():
            self._apply(run, answer.get(job_id), before)
        return True

    def _note_gap(self, now: float) -> None:
        """After a gap between two beats of ours, or within one, the others may have been cut off as well."""
        if self._beaten_at is not None and now - self._beaten_at > self._settle_seconds:
            self._let_settle(now)
        self._beaten_at = now

    def _let_settle(self, now: float) -> None:
        """The others may be about to return: none is called dead for half a lease, as after the start of a server."""
        self._settled_at = now + self._settle_seconds

    @property
    def _settle_seconds(self) -> float:
        return self.options.lease_for.total_seconds() / 2

    def _apply(self, run: Run, renewal: lease.Renewal | None, before: float) -> None:
        if renewal is None:
            if run.job.id in self.worker.held():
                run.lease_lost = True
        else:
            if renewal.renewed or run.keeps_snapshot:
                run.renew_lease(before, self.options.lease_for)
            run.cancel_requested = run.cancel_requested or renewal.cancel_requested

    def _reconcile(self, connection: psycopg.Connection[Any]) -> None:
        """A claim whose answer was lost left rows in our name. Twice unknown, so not merely on their way here."""
        known = self.worker.held()
        rows = lease.claimed_by(connection, self.worker_id)
        unknown = {job_id: number for job_id, number in rows.items() if job_id not in known}
        twice = {job_id: number for job_id, number in unknown.items() if self._unknown.get(job_id) == number}
        self._unknown = unknown
        if twice:
            self.worker.give_back_unknown(twice)

    def _rescue(self, connection: psycopg.Connection[Any]) -> None:
        settle_for = timedelta(seconds=self._settle_seconds)
        self._end_transactions(connection, settle_for)
        rescued = rescue(connection, self.options.lease_for, settle_for)
        for job in rescued:
            message = f"{job.task} {job.id} of the dead worker {job.worker} is {job.state} (crashes: {job.crashes})."
            level = logging.ERROR if job.state == "failed" else logging.WARNING
            if job.state in FINISHED:
                self.worker.announce_end(str(job.id))
            emit("queue.rescued", message, level=level, job_id=str(job.id), task=job.task, state=job.state)
        for queue in {job.queue for job in rescued if job.state == "ready"}:
            connection.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, notify.ready(queue)])
            self.worker.wake_up(notify.ready(queue))

    def _end_transactions(self, connection: psycopg.Connection[Any], settle_for: timedelta) -> None:
        """See queue.rescue. Those of roles whose connections may not be ended stop no others from being ended."""
        terms = (connection, self.options.lease_for, settle_for)
        try:
            ended = end_transactions(*terms, of_any_role=self._ends_of_any_role)
        except errors.InsufficientPrivilege as error:
            self._ends_of_any_role = False
            message = f"What dead workers have open as another role keeps its locks: {str(error).strip()}"
            emit("worker.transactions_not_ended", message, level=logging.WARNING)
            ended = end_transactions(*terms, of_any_role=False)
        for worker_id, pid in ended:
            message = f"Ended the transaction that the dead worker {worker_id} had open (process {pid} of the server)."
            emit(
                "worker.transaction_ended", message, level=logging.WARNING, worker_id=str(worker_id), pid=pid
            )

    def facts(self) -> dict[str, Any]:
        """What the worker's row says of it, for queue.workers.register()."""
        return {
            "id": self.worker_id,
            "name": self.options.name,
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "queues": json.dumps(list(self.options.queues)),
            "threads": self.options.threads,
        }

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
