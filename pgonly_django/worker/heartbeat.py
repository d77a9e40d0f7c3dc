"""The thread that renews the leases, and takes the jobs of dead workers back. It has a separate connection, so that no
statement of the main loop delays it; while the worker sleeps it has none."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import threading
import time
from collections import deque
from collections.abc import Collection
from contextlib import nullcontext
from datetime import timedelta
from uuid import UUID

import psycopg
from psycopg import errors

from pgonly_django.conf import settings
from pgonly_django.context.run import Run, renewing
from pgonly_django.database import notify
from pgonly_django.database.connect import TRY_AGAIN, OwnConnection
from pgonly_django.database.reconnecting import Reconnecting
from pgonly_django.events import TakesEvents, emit
from pgonly_django.models.job import FINISHED, State
from pgonly_django.models.worker import own_version
from pgonly_django.queue import liveness
from pgonly_django.queue.rescue import Rescued, end_transactions, rescue
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.in_flight import InFlight
from pgonly_django.worker.inbox import (
    RESCUED_FAILED,
    RESCUED_FINISHED,
    Notification,
    Requested,
    Tell,
    UnknownClaim,
)
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.run_counter import RunCounter
from pgonly_django.worker.status import own_rss_mb
from pgonly_django.worker.timers import Timer

LOCK_WAIT = "2s"  # of a whole table: rows that are locked are skipped
SAMPLE_SECONDS, SAMPLES_KEPT = 60.0, 60
AGAIN_SECONDS = 1.0  # after a beat that left no trace in the worker's row


class Heartbeat(threading.Thread):
    """The heartbeat. `tell` takes messages for the main loop, whose connection is `main`."""

    def __init__(
        self, worker_id: UUID, options: WorkerOptions, in_flight: InFlight, stats: RunCounter, main: WorkerConnection,
        tell: Tell,
    ) -> None:  # fmt: skip
        super().__init__(name="pgonly-heartbeat", daemon=True)
        self.worker_id, self.options, self.in_flight, self.stats = worker_id, options, in_flight, stats
        self.tell, self._main = tell, main
        self.rescue = Rescue(options, tell, stats)
        self.database = Reconnecting(
            options.database,
            application_name=f"pgonly heartbeat {worker_id} {options.name}",
            lock_wait=LOCK_WAIT,
            opened=self._register_again,
            lost=self._emit_failed,
            back=self.rescue.wait_until_settled,
        )
        self.some_running = True  # a job of any worker, as of the last beat
        self.beaten_at = time.monotonic()  # when the last beat was complete
        self._over, self._changed = threading.Event(), threading.Event()
        # Those of this thread: a handler of the log that hangs would cost the leases.
        self.takes_events: TakesEvents = nullcontext
        self._is_asleep = False
        self._beat_at = 0.0
        self._beating = threading.Lock()
        self._unknown: dict[str, int] = {}
        self._memory = MemorySamples()

    def end(self) -> None:
        self._over.set()
        self._changed.set()

    def sleep(self) -> bool:
        """Stops beating until wake(). Called by the main loop, before the worker's row says that it sleeps: a beat
        after that would say that it is awake. Returns False in the middle of a beat, which is not waited for."""
        if not self._beating.acquire(blocking=False):
            return False
        self._is_asleep = True
        self._beating.release()
        self._changed.set()
        return True

    def wake(self) -> None:
        """Ends the sleep, and beats at once."""
        if self._is_asleep:
            self._is_asleep, self.some_running = False, True
            self.beaten_at = self._beat_at = time.monotonic()
            self._changed.set()

    def run(self) -> None:
        with self.takes_events():
            self._work()

    def _work(self) -> None:
        while not self._over.is_set():
            self._changed.clear()
            if self._is_asleep:
                self._close()
            elif time.monotonic() >= self._beat_at:
                self._beat_at = time.monotonic() + self._beat_and_pause()
            elif time.monotonic() >= self.stats.due_at:  # a long lease has beats far apart
                self._write_stats()
            pause = None if self._is_asleep else self._next_step() - time.monotonic()
            if not self._over.is_set() and (pause is None or pause > 0):
                self._changed.wait(pause)
        self.database.close()

    def _next_step(self) -> float:
        """Returns the next step. While the database is unavailable the beats look for it."""
        return self._beat_at if self.database.is_away else min(self._beat_at, self.stats.due_at)

    def _close(self) -> None:
        if self.database.open_socket is not None:
            self._write_stats()
        self.database.close()
        self.rescue.forget_contact()
        self._unknown = {}

    def _write_stats(self) -> None:
        try:
            self.database.ask(self.stats.write)
        except Exception as error:  # noqa: BLE001 - as in _beat_and_pause()
            self.database.lose(error)

    def _beat_and_pause(self) -> float:
        """Does one beat, whatever it raises: without beats every job here would be lost. Returns the pause."""
        try:
            connection = self.database.connection()
            if connection is None:
                return self.database.pause_seconds
            if self._main.is_direct:
                self.database.note_direct()
            seconds = self.options.heartbeat_seconds
            return seconds if self.beat(connection) else min(seconds, AGAIN_SECONDS)
        except Exception as error:  # noqa: BLE001 - see above
            self.database.lose(error)
            return self.database.pause_seconds

    def beat(self, connection: OwnConnection) -> bool:
        """Renews what is held, finds what is not known, says that this worker is alive, and rescues from workers that
        are not. Returns whether all leases are renewed and the worker's row says that it is alive: not while another
        transaction has that locked.
        """
        with self._beating:
            return not self._is_asleep and self._beat(connection)

    def beat_on_main(self) -> bool:
        """Does the same on the connection of the main loop, unless this thread is in the middle of a beat."""
        if not self._beating.acquire(blocking=False):
            return False
        try:
            return self._main.ask(self._beat) or False
        finally:
            self._beating.release()

    def _beat(self, connection: OwnConnection) -> bool:
        runs, began = self.in_flight.held(), time.monotonic()
        self.rescue.note_contact()
        is_renewed = self._renew(connection, runs, began)
        self._release_unknown(connection)
        beat = liveness.heartbeat(connection, self.worker_id, len(runs), self._memory.to_write())
        self.rescue.note_contact()
        if beat is None:
            self.register(connection)
        elif beat.request is not None:
            self.tell(Requested(beat.request))
        if beat is not None and beat.some_lease_expired:
            self.rescue.run(connection)
        if beat is not None and beat.some_batch_open:
            self.tell(Notification(notify.BATCH, notify.ANY_BATCH))
        self.some_running = beat is None or beat.some_running
        is_complete = is_renewed and beat is not None and beat.was_written
        if is_complete:
            self.beaten_at = began
        if time.monotonic() >= self.stats.due_at:
            self.stats.write(connection)
        return is_complete

    def _renew(self, connection: OwnConnection, runs: dict[str, Run], began: float) -> bool:
        """Renews, but not while the table is locked, as CREATE INDEX does for long: the worker has to say that it is
        alive all the same, or the others would take its jobs."""
        leases = {job_id: run.job.lease_epoch for job_id, run in runs.items()}
        try:
            with renewing:
                still = {job_id for job_id, run in runs.items() if run.keeps_snapshot}
                renewals = liveness.renew(connection, leases, self.options.lease_for, still)
        except TRY_AGAIN as error:
            message = f"{len(runs)} lease(s) could not be renewed, trying again: {str(error).strip()}"
            emit("worker.leases_not_renewed", message, level=logging.WARNING)
            return False
        for job_id, run in runs.items():
            renewal = renewals.get(job_id)
            if renewal is None:
                if job_id in self.in_flight.runs:  # else it has just ended
                    run.lease_lost = True
                continue
            if renewal.renewed or run.keeps_snapshot:
                run.renew_lease(began, self.options.lease_for)
            if renewal.cancel_requested:
                run.cancel_requested = True
        return True

    def _release_unknown(self, connection: OwnConnection) -> None:
        """Releases claims in our name whose answer was lost: unknown twice, so not just on their way here."""
        known = self.in_flight.held()
        rows = liveness.claimed_by(connection, self.worker_id)
        unknown = {job_id: epoch for job_id, epoch in rows.items() if job_id not in known}
        for job_id, epoch in unknown.items():
            if self._unknown.get(job_id) == epoch:
                self.tell(UnknownClaim(job_id, epoch))
        self._unknown = unknown

    def _emit_failed(self, error: Exception) -> None:
        is_known = isinstance(error, psycopg.Error)
        message = f"Heartbeat: {str(error).strip() or type(error).__name__}"
        level = logging.WARNING if is_known else logging.ERROR
        emit("worker.heartbeat_failed", message, level=level, exc_info=not is_known)

    def register(self, connection: OwnConnection) -> None:
        """Writes the worker's row."""
        options = self.options
        facts = {
            "id": self.worker_id, "name": options.name, "hostname": socket.gethostname(), "pid": os.getpid(),
            "queues": json.dumps(list(options.queues)), "threads": options.threads, "version": own_version(),
            "python": platform.python_version(), "release": settings().release,
        }  # fmt: skip
        liveness.register(connection, facts)

    def _register_again(self, connection: OwnConnection) -> None:
        if not self._over.is_set():
            self.register(connection)

    def note_stopped(self, connection: OwnConnection) -> None:
        liveness.stopped(connection, self.worker_id)


class MemorySamples:
    """The memory of this process, once a minute, of the last hour."""

    def __init__(self) -> None:
        self._due_at = 0.0
        self._samples: deque[int] = deque(maxlen=SAMPLES_KEPT)

    def to_write(self) -> str | None:
        """Returns the samples as JSON where a new one is due; else None, and where the system does not tell them."""
        if time.monotonic() < self._due_at or (now := own_rss_mb()) is None:
            return None
        self._due_at = time.monotonic() + SAMPLE_SECONDS
        self._samples.append(round(now))
        return json.dumps([*self._samples])


class StandIn(Timer):
    """Beats every quarter of a lease on the connection of the main loop, where the thread gets none and leases are in
    danger. The server may have as many connections as it takes."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        super().__init__(time.monotonic())
        self._heartbeat = heartbeat

    def run(self) -> None:
        heartbeat, now = self._heartbeat, time.monotonic()
        seconds = heartbeat.options.heartbeat_seconds
        self.at = now + seconds
        if now - heartbeat.beaten_at > 2 * seconds and heartbeat.database.is_away:
            heartbeat.beat_on_main()


class Rescue:
    """Takes the jobs of dead workers back, after ending the transactions that those have open.

    After a time without contact to the database the other workers may have been cut off as well, and be about to
    return. No worker is declared dead for half a lease then, as after the start of the server.
    """

    def __init__(self, options: WorkerOptions, tell: Tell, stats: RunCounter) -> None:
        self.options, self.stats, self.tell = options, stats, tell
        self._contact_at: float | None = None
        self._settled_at = 0.0
        self._ends_of_any_role = True

    @property
    def _settle_for(self) -> timedelta:
        return self.options.lease_for / 2

    def note_contact(self) -> None:
        """Notes that the database answers, before and after each beat: one that hung is a time without contact."""
        now = time.monotonic()
        if self._contact_at is not None and now - self._contact_at > self._settle_for.total_seconds():
            self.wait_until_settled()
        self._contact_at = now

    def forget_contact(self) -> None:
        """Called when there will be no contact for a while, from which nothing follows."""
        self._contact_at = None

    def wait_until_settled(self) -> None:
        self._settled_at = time.monotonic() + self._settle_for.total_seconds()

    def run(self, connection: OwnConnection) -> None:
        if time.monotonic() >= self._settled_at:
            self._end_transactions(connection)
            rescued = rescue(connection, self.options.lease_for, self._settle_for)
            self.stats.count_rescued(rescued)
            announce(connection, rescued, self.tell)

    def _end_transactions(self, connection: OwnConnection) -> None:
        """See queue.rescue. Transactions of roles that may not be ended here do not keep others from being ended."""
        terms = (connection, self.options.lease_for, self._settle_for)
        try:
            ended = end_transactions(*terms, of_any_role=self._ends_of_any_role)
        except errors.InsufficientPrivilege as error:
            self._ends_of_any_role = False
            message = (
                f"Transactions of dead workers under another role keep their locks: {str(error).strip()}"
            )
            emit("worker.transactions_not_ended", message, level=logging.WARNING)
            ended = end_transactions(*terms, of_any_role=False)
        for worker_id, pid in ended:
            message = f"Ended the transaction that the dead worker {worker_id} had open (process {pid} of the server)."
            facts = {"worker_id": str(worker_id), "pid": pid}
            emit("worker.transaction_ended", message, level=logging.WARNING, **facts)


def announce(connection: OwnConnection, rescued: Collection[Rescued], tell: Tell) -> None:
    """Logs what was rescued, and notifies every worker. This process's also does what follows a job's end."""
    for job in rescued:
        message = (
            f"{job.task} {job.id} of the dead worker {job.worker} is {job.state} (crashes: {job.crashes})."
        )
        level = logging.ERROR if job.state == State.FAILED else logging.WARNING
        emit("queue.rescued", message, level=level, job_id=str(job.id), task=job.task, state=job.state)
        if job.state in FINISHED:
            tell(Notification(RESCUED_FAILED if job.state == State.FAILED else RESCUED_FINISHED, str(job.id)))
    payloads = {notify.ready(job.queue) for job in rescued if job.state == State.READY}
    if rescued:  # also one that has failed leaves room
        payloads.add(notify.limited(notify.ANY_QUEUE))
    for payload in sorted(payloads):
        notify.send(connection, payload)
        tell(Notification.parse(payload))
