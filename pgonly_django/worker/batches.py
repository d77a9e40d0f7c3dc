"""Closes batches: soon after the end of the last member is written, in a thread that starts with the first batch, or in
a burst in its main loop. While some batch is open, a sweep finds those whose last worker died before it could, and
those of which no NOTIFY told."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext, suppress
from functools import partial

from django.db import connections, transaction

from pgonly_django.database import notify
from pgonly_django.database.connect import SET_LOCAL, OwnConnection, connect
from pgonly_django.database.reconnecting import Reconnecting
from pgonly_django.events import TakesEvents, emit
from pgonly_django.models.related import cancel_orphaned
from pgonly_django.queue import batches
from pgonly_django.tasks.batches import callback
from pgonly_django.worker.inbox import Notification, Tell
from pgonly_django.worker.maintenance import KEEP_OPEN_SECONDS, LOCK_WAIT, tried
from pgonly_django.worker.timers import NEVER, Timer

PAUSE_SECONDS = 0.02  # between two looks
SWEEP_SECONDS, SWEEP_AT_MOST, SWEEP_DUTY = 5.0, 15.0, 50  # the pause doubles while no batch ends
# A batch that someone else has locked is looked at again so soon, and for so long; then the sweep has to find it.
LOCKED_SECONDS, LOCKED_AT_MOST = 0.1, 5.0


class BatchCloser(Timer):
    """The batches that may be over, as far as this worker knows. want() is for the main loop. In a burst `main` is its
    connection: it looks itself, and runs the callbacks before it ends."""

    def __init__(self, alias: str, tell: Tell, main: Reconnecting | None = None) -> None:
        super().__init__()
        self.alias, self.tell, self._main = alias, tell, main
        self.takes_events: TakesEvents = nullcontext
        self._wanted: dict[str, float] = {}  # since when
        self._not_before = 0.0
        self._sweep_at, self._sweep_pause = NEVER, SWEEP_SECONDS
        self._is_looking = self._has_told = self._is_over = self._rests = False
        self._used_at = 0.0
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: OwnConnection | None = None

    def want(self, batch_id: str) -> None:
        """Looks soon whether this batch is over, or any, unless a sweep is planned."""
        if batch_id != notify.ANY_BATCH:
            self._wanted.setdefault(batch_id, time.monotonic())
        elif self._sweep_at == NEVER:
            self._sweep_at = time.monotonic()
        if self._main is None:
            self._begin()

    @property
    def are_due(self) -> bool:
        """Whether a look is still to be made, or what follows to be heard: the callbacks are jobs of a burst, too."""
        return bool(self._wanted) or self._is_looking or self.due_at <= time.monotonic()

    @property
    def due_at(self) -> float:
        """When run() is due, in a burst: also once after something was told."""
        if self._main is None:
            return NEVER
        return 0.0 if self._has_told else self._next_look()

    def run(self) -> None:
        """Looks in the main loop of a burst, if it is time."""
        self._has_told = False
        if self._main is not None and self._next_look() <= time.monotonic():
            self._main.ask(self._run_due)

    def _next_look(self) -> float:
        return min(self._sweep_at, self._not_before if self._wanted else NEVER)

    def rest(self) -> None:
        """Closes the connection of the thread, until the next want()."""
        self._sweep_at, self._rests = NEVER, True
        self._changed.set()

    def end(self) -> None:
        """Ends the thread after a last look."""
        self._is_over = True
        self._changed.set()

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def join(self, seconds: float) -> None:
        assert self._thread is not None
        self._thread.join(seconds)

    # In the thread.

    def _begin(self) -> None:
        self._changed.set()
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="pgonly-batches", daemon=True)
            with suppress(RuntimeError):  # the system starts no more threads
                thread.start()
                self._thread = thread

    def _serve(self) -> None:
        with self.takes_events():
            while not self._is_over:
                pause = max(self._next_look() - time.monotonic(), 0.0)
                keep = KEEP_OPEN_SECONDS if self._connection is not None else threading.TIMEOUT_MAX
                self._changed.wait(min(pause, keep))
                self._changed.clear()
                self._turn()
                time.sleep(PAUSE_SECONDS)
            self._turn()
            self._close()

    def _turn(self) -> None:
        """Looks at what is due, and closes a connection that nothing has needed for long."""
        if self._next_look() <= time.monotonic():
            self._run_due()
        if self._rests or time.monotonic() - self._used_at >= KEEP_OPEN_SECONDS:
            self._rests = False
            self._close()

    def _run_due(self, connection: OwnConnection | None = None) -> None:
        """Closes those that are over of all that are wanted, on this connection or on the thread's own."""
        self._is_looking = True
        tried("Closing batches", partial(self._look, connection))
        self._is_looking = False

    def _look(self, connection: OwnConnection | None) -> None:
        self._used_at = began = time.monotonic()
        due = {each: self._wanted.pop(each) for each in tuple(self._wanted)}
        sweeps = began >= self._sweep_at
        if sweeps:
            self._sweep_at = began + SWEEP_SECONDS  # also where it fails
        try:
            connection = connection or self._own_connection()
            over = self._sweep(connection) if sweeps else []
            closed = self._close_batches(connection, [*due, *over])
        except BaseException:
            self._sweep_at = min(self._sweep_at, began + SWEEP_SECONDS)
            self._close()
            raise
        self._look_again(due, closed.locked, began)
        self._tell(closed)
        if closed.payloads:  # the other workers, a moment later
            notify.send(connection, *sorted(closed.payloads))

    def _tell(self, closed: batches.Closed) -> None:
        for batch_id, has_failed in closed.batches.items():
            what = "not all of its jobs have succeeded" if has_failed else "all of its jobs have succeeded"
            message = f"Batch {batch_id} has finished: {what}."
            emit(
                "queue.batch_finished", message, level=logging.INFO, batch_id=batch_id, has_failed=has_failed
            )
        if closed.batches:
            self._sweep_pause = SWEEP_SECONDS
        for payload in closed.payloads:
            self.tell(Notification.parse(payload))
        self._has_told = bool(closed.payloads)

    def _close_batches(self, connection: OwnConnection, ids: list[str]) -> batches.Closed:
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

    def _look_again(self, due: dict[str, float], locked: list[str], began: float) -> None:
        """Looks soon at those that are locked, and does not spend all its time on looks that take long."""
        now = time.monotonic()
        self._not_before = now + (LOCKED_SECONDS if locked else now - began)
        for batch_id in locked:
            since = due.get(batch_id, began)
            if now - since < LOCKED_AT_MOST:
                self._wanted.setdefault(batch_id, since)

    def _sweep(self, connection: OwnConnection) -> list[str]:
        """Returns the open batches that are over. Cancels those whose parent was cancelled or discarded."""
        began = time.monotonic()
        swept = batches.sweep(connection)
        if swept.orphaned:
            self._cancel(swept.orphaned)
        pause = max(self._sweep_pause, SWEEP_DUTY * (time.monotonic() - began))
        self._sweep_pause = min(2 * self._sweep_pause, SWEEP_AT_MOST) if swept.some_open else SWEEP_SECONDS
        self._sweep_at = time.monotonic() + pause if swept.some_open else NEVER
        return swept.over

    def _cancel(self, ids: list[str]) -> None:
        was_open = connections[self.alias].connection is not None
        with transaction.atomic(using=self.alias), connections[self.alias].cursor() as cursor:
            cursor.execute(SET_LOCAL, {"wait": LOCK_WAIT})
            cancel_orphaned(self.alias, ids)
        if not was_open:
            connections[self.alias].close()

    def _own_connection(self) -> OwnConnection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self.alias, application_name="pgonly batches")
            self._connection.apply_session_settings(lock_wait=LOCK_WAIT)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
