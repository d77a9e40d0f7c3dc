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

from pgonly_django import wake
from pgonly_django.events import emit
from pgonly_django.models.job import FINISHED
from pgonly_django.postgres import PREPARE_AFTER, connect, prefer_indexes
from pgonly_django.queue import lease
from pgonly_django.queue.rescue import rescue
from pgonly_django.tasks.run import Run
from pgonly_django.worker.options import WorkerOptions

RECONNECT_SECONDS = (0.1, 2.0)

REGISTER = """
INSERT INTO pgonly_worker (id, name, hostname, pid, queues, threads, running, started_at, heartbeat_at)
VALUES (%(id)s, %(name)s, %(hostname)s, %(pid)s, %(queues)s::jsonb, %(threads)s, 0,
    clock_timestamp(), clock_timestamp())
ON CONFLICT (id) DO UPDATE SET heartbeat_at = clock_timestamp(), stopped_at = NULL
"""


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
        self._connection: psycopg.Connection[Any] | None = None

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
                self._over.wait(self._pause)
                self._pause = min(self._pause * 2, RECONNECT_SECONDS[1])
            finally:
                self._close()

    def _connected(self) -> None:
        connection = connect(self.options.database, application_name=f"pgonly heartbeat {self.options.name}")
        self._connection = connection
        connection.prepare_threshold = None  # until it is known that no pooler stands between
        if not self._over.is_set():
            connection.execute(REGISTER, self._facts())
        next_beat = time.monotonic()
        while not self._over.wait(max(next_beat - time.monotonic(), 0.0)):
            if connection.prepare_threshold is None and self.worker.reaches_postgres:
                connection.prepare_threshold = PREPARE_AFTER
                prefer_indexes(connection)
            self.beat(connection)
            self._pause = RECONNECT_SECONDS[0]
            next_beat = time.monotonic() + self.options.heartbeat_seconds

    def beat(self, connection: psycopg.Connection[Any]) -> None:
        """Renew what is held, find what is not known, say that we live, rescue from those who do not."""
        runs = self.worker.held()
        before = time.monotonic()
        self._note_gap(before)
        leases = {job_id: run.job.lease for job_id, run in runs.items()}
        answer = lease.renew(connection, leases, self.options.lease_for)
        for job_id, run in runs.items():
            self._apply(run, answer.get(job_id), before)
        self._reconcile(connection)
        if self._rescue_is_due(connection, len(runs)) and before >= self._settled_at:
            self._rescue(connection)

    def _note_gap(self, now: float) -> None:
        """After a gap between two beats of ours the others may have been cut off as well, and be about to return:
        nobody is called dead for half a lease, as after the start of a server."""
        settle_seconds = self.options.lease_for.total_seconds() / 2
        if self._beaten_at is not None and now - self._beaten_at > settle_seconds:
            self._settled_at = now + settle_seconds
        self._beaten_at = now

    def _apply(self, run: Run, renewal: lease.Renewal | None, before: float) -> None:
        if renewal is None:
            if run.job.id in self.worker.held():
                run.lease_lost = True
        else:
            if renewal.renewed:
                run.lease_until = before + self.options.lease_for.total_seconds()
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

    def _rescue_is_due(self, connection: psycopg.Connection[Any], running: int) -> bool:
        expired = lease.heartbeat(connection, self.worker_id, running)
        if expired is None:
            connection.execute(REGISTER, self._facts())
        return bool(expired)

    def _rescue(self, connection: psycopg.Connection[Any]) -> None:
        settle_for = timedelta(seconds=self.options.lease_for.total_seconds() / 2)
        rescued = rescue(connection, self.options.lease_for, settle_for)
        for job in rescued:
            message = f"{job.task} {job.id} of the dead worker {job.worker} is {job.state} (crashes: {job.crashes})."
            level = logging.ERROR if job.state == "failed" else logging.WARNING
            if job.state in FINISHED:
                self.worker.announce_end(str(job.id))
            emit("queue.rescued", message, level=level, job_id=str(job.id), task=job.task, state=job.state)
        for queue in {job.queue for job in rescued if job.state == "ready"}:
            connection.execute("SELECT pg_notify(%s, %s)", [wake.CHANNEL, wake.ready(queue)])
            self.worker.wake_up(wake.ready(queue))

    def _facts(self) -> dict[str, Any]:
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
