"""Closes batches in the main loop, soon after the end of the last member is written. While some batch is open, each
heartbeat asks for a sweep (worker/duties.py). It finds those whose last worker died before it could, and those of which
no NOTIFY told."""

from __future__ import annotations

import logging
import time
from functools import partial
from itertools import islice

from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.events import emit
from pgonly_django.queue import batches
from pgonly_django.tasks.batches import callback
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.duties import SWEPT, SweepBatches
from pgonly_django.worker.inbox import Notification, Tell
from pgonly_django.worker.maintenance import Maintenance, tried
from pgonly_django.worker.timers import NEVER, Timer

PAUSE_SECONDS = 0.02  # between two looks
AT_ONCE = 200  # so that the loop does not stand still for long
# A batch that someone else has locked is looked at again so soon, and for so long; then the sweep has to find it.
LOCKED_SECONDS, LOCKED_AT_MOST = 0.1, 5.0


class BatchCloser(Timer):
    """The batches that may be over, as far as this worker knows."""

    def __init__(self, database: WorkerConnection, maintenance: Maintenance, tell: Tell) -> None:
        super().__init__(NEVER)
        self._database, self._maintenance, self._tell = database, maintenance, tell
        self._wanted: dict[str, float] = {}  # since when
        self._is_sweeping = self._has_told = False

    def want(self, batch_id: str) -> None:
        """Looks soon whether this batch is over, or any."""
        if batch_id == SWEPT:
            self._is_sweeping = False
        elif batch_id == notify.ANY_BATCH:
            self._is_sweeping = True
            self._maintenance.run_soon(SweepBatches, partial(self._tell, Notification(notify.BATCH, SWEPT)))
        else:
            self._wanted.setdefault(batch_id, time.monotonic())
            self._plan()

    @property
    def are_due(self) -> bool:
        """Whether a look is still to be made, or what follows to be heard: a burst runs the callbacks, too."""
        return self.at != NEVER or self._is_sweeping

    def run(self) -> None:
        """Looks. After something was told it comes once more."""
        began, self._has_told = time.monotonic(), False
        self.not_before = began + PAUSE_SECONDS
        if self._wanted:
            self._database.ask(lambda connection: tried("Closing batches", partial(self._look, connection)))
        now = time.monotonic()
        self.not_before = max(self.not_before, now + now - began)  # not all its time on looks that take long
        self._plan()

    def _plan(self) -> None:
        self.at = 0.0 if self._wanted or self._has_told else NEVER

    def _look(self, connection: OwnConnection) -> None:
        began = time.monotonic()
        due = dict(islice(self._wanted.items(), AT_ONCE))
        for batch_id in due:
            del self._wanted[batch_id]
        closed = self._close(connection, list(due))
        self._tell_of(closed)
        for batch_id in closed.locked:
            self.not_before = began + LOCKED_SECONDS
            if began - due[batch_id] < LOCKED_AT_MOST:
                self._wanted.setdefault(batch_id, due[batch_id])
        if closed.payloads:  # the other workers, a moment later
            notify.send(connection, *sorted(closed.payloads))

    def _close(self, connection: OwnConnection, ids: list[str]) -> batches.Closed:
        """Closes these. One whose callbacks cannot be enqueued keeps no other from being closed (promise 8)."""
        try:
            return batches.close(connection, ids, callback)
        except Exception:
            if connection.closed or len(ids) == 1:
                raise
        closed = batches.Closed()
        for batch_id in ids:
            tried(f"Closing batch {batch_id}", partial(closed.close, connection, batch_id, callback))
        return closed

    def _tell_of(self, closed: batches.Closed) -> None:
        for batch_id, has_failed in closed.batches.items():
            what = "not all of its jobs have succeeded" if has_failed else "all of its jobs have succeeded"
            message = f"Batch {batch_id} has finished: {what}."
            emit(
                "queue.batch_finished", message, level=logging.INFO, batch_id=batch_id, has_failed=has_failed
            )
        for payload in closed.payloads:
            self._tell(Notification.parse(payload))
        self._has_told = bool(closed.payloads)
