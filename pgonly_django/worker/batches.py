"""Closes batches: soon after the end of the last member is written, in a thread that starts with the first batch. While
some batch is open, a sweep finds those whose last worker died before it could, and those that a person has ended."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext, suppress
from functools import partial

from django.db import connections, transaction

from pgonly_django.database import notify
from pgonly_django.database.connect import SET_LOCAL, OwnConnection, connect
from pgonly_django.events import TakesEvents, emit
from pgonly_django.queue import batches
from pgonly_django.tasks.batches import callback
from pgonly_django.worker.inbox import LOOKED, Notification, Tell
from pgonly_django.worker.maintenance import KEEP_OPEN_SECONDS, LOCK_WAIT, tried
from pgonly_django.worker.timers import NEVER

PAUSE_SECONDS = 0.02  # between two looks
DUTY = 10  # a batch whose look took d seconds is not looked at again before DUTY * d
SWEEP_SECONDS, SWEEP_DUTY = 5.0, 50
# A batch that someone else has locked is looked at again so soon, and for so long; then the sweep has to find it.
LOCKED_SECONDS, LOCKED_AT_MOST = 0.1, 5.0


class BatchCloser:
    """The batches that may be over, as far as this worker knows. want() is for the main loop."""

    def __init__(self, alias: str, tell: Tell) -> None:
        self.alias, self.tell = alias, tell
        self.takes_events: TakesEvents = nullcontext
        self._wanted: dict[str, float] = {}  # since when
        self._not_before: dict[str, float] = {}
        self._sweep_at = NEVER
        self._asked = self._told = self._answered = 0
        self._is_over = self._rests = False
        self._used_at = 0.0
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: OwnConnection | None = None

    def want(self, batch_id: str) -> None:
        """Looks soon whether this batch is over, or any."""
        if batch_id == notify.ANY_BATCH:
            self._sweep_at = min(self._sweep_at, time.monotonic())
        else:
            self._wanted.setdefault(batch_id, time.monotonic())
        self._asked += 1
        self._begin()

    def note_looked(self, number: int) -> None:
        """Notes that this many calls of want() are answered."""
        self._answered = number

    @property
    def are_due(self) -> bool:
        """Whether a look is still to be made, or its answer to be heard: the callbacks are jobs of a burst, too."""
        return self._answered < self._asked

    def pause(self) -> float:
        """Returns the seconds until there is something to do."""
        times = [self._not_before.get(batch_id, 0.0) for batch_id in tuple(self._wanted)]
        return max(min([self._sweep_at, *times]) - time.monotonic(), 0.0)

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
                keep = KEEP_OPEN_SECONDS if self._connection is not None else threading.TIMEOUT_MAX
                self._changed.wait(min(self.pause(), keep))
                self._changed.clear()
                self._turn()
                time.sleep(PAUSE_SECONDS)
            self._turn()
            self._close()

    def _turn(self) -> None:
        """Looks at what is due, and closes a connection that nothing has needed for long."""
        self.run_due()
        if self._rests or time.monotonic() - self._used_at >= KEEP_OPEN_SECONDS:
            self._rests = False
            self._close()

    def run_due(self, connection: OwnConnection | None = None) -> None:
        """Closes those that are over of all that are due, on this connection or on the thread's own."""
        asked = self._asked  # before what was wanted by then
        if self.pause() == 0.0:
            tried("Closing batches", partial(self._run_due, connection))
        if asked > self._told and not self._wanted and self._sweep_at > time.monotonic():
            self._told = asked
            self.tell(Notification(LOOKED, str(asked)))

    def _run_due(self, connection: OwnConnection | None) -> None:
        self._used_at = began = time.monotonic()
        due = {each: self._wanted.pop(each) for each in tuple(self._wanted) if self._is_free(each, began)}
        sweeps = began >= self._sweep_at
        if sweeps:
            self._sweep_at = began + SWEEP_SECONDS  # also where it fails
        try:
            connection = connection or self._own_connection()
            began = time.monotonic()  # what it takes to connect keeps no batch waiting
            over = self._sweep(connection, began) if sweeps else []
            closed = self._close_batches(connection, [*due, *over])
        except BaseException:
            self._sweep_at = min(self._sweep_at, began + SWEEP_SECONDS)
            self._close()
            raise
        self._put_off(due, closed.locked, began)
        for batch_id, has_failed in closed.batches.items():
            what = "not all of its jobs have succeeded" if has_failed else "all of its jobs have succeeded"
            message = f"Batch {batch_id} has finished: {what}."
            emit(
                "queue.batch_finished", message, level=logging.INFO, batch_id=batch_id, has_failed=has_failed
            )
        for payload in closed.payloads:
            self.tell(Notification.parse(payload))

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

    def _is_free(self, batch_id: str, now: float) -> bool:
        return self._not_before.get(batch_id, 0.0) <= now

    def _put_off(self, due: dict[str, float], locked: list[str], began: float) -> None:
        now = time.monotonic()
        self._not_before = {each: at for each, at in self._not_before.items() if at > now}
        if (pause := DUTY * (now - began)) > PAUSE_SECONDS:
            self._not_before |= dict.fromkeys(due, now + pause)
        for batch_id in locked:
            since = due.get(batch_id, began)
            if now - since < LOCKED_AT_MOST:
                self._not_before[batch_id] = max(self._not_before.get(batch_id, 0.0), now + LOCKED_SECONDS)
                self._wanted.setdefault(batch_id, since)

    def _sweep(self, connection: OwnConnection, began: float) -> list[str]:
        """Returns the open batches that are over. Cancels those whose parent was cancelled."""
        swept = batches.sweep(connection)
        if swept.orphaned:
            with transaction.atomic(using=self.alias), connections[self.alias].cursor() as cursor:
                cursor.execute(SET_LOCAL, {"wait": LOCK_WAIT})
                batches.cancel(self.alias, swept.orphaned)
            connections.close_all()
        pause = max(SWEEP_SECONDS, SWEEP_DUTY * (time.monotonic() - began))
        self._sweep_at = time.monotonic() + pause if swept.some_open else NEVER
        return swept.over

    def _own_connection(self) -> OwnConnection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self.alias, application_name="pgonly batches")
            self._connection.apply_session_settings(lock_wait=LOCK_WAIT)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
