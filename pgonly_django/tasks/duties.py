"""The duties that enqueue jobs for other jobs, dead letters and the callbacks of batches; and the rows of queues."""

from __future__ import annotations

import logging
import time
from functools import partial

from pgonly_django.compat import InvalidTaskBackend, task_backends
from pgonly_django.conf import settings
from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection
from pgonly_django.database.housekeeping import closed_after, patient_transaction
from pgonly_django.duties import BATCH, BUSY_SECONDS, NEVER, Duty, Workplace, in_seconds, tried
from pgonly_django.events import emit
from pgonly_django.models.related import cancel_orphaned
from pgonly_django.queue import batches
from pgonly_django.queue.declared_queues import declare_queues
from pgonly_django.queue.failed_jobs import queues_with_unsent
from pgonly_django.tasks.backend import PostgresBackend
from pgonly_django.tasks.batches import callback
from pgonly_django.tasks.failures import dead_letter_tasks, send_dead_letters

FAILED = "failed"  # told to the housekeeper when a job has failed: no NOTIFY of that kind is sent
LETTERS_SECONDS = 0.5  # between two looks for failed jobs, which may come by the thousand
LOOK_SECONDS = 0.02  # between two looks at batches
SWEEP_SECONDS, SWEEP_AT_MOST, SWEEP_DUTY = 5.0, 15.0, 50  # the pause doubles while no batch ends
# A batch that someone else has locked is looked at again so soon, and for so long; then the sweep has to find it.
LOCKED_SECONDS, LOCKED_AT_MOST = 0.1, 5.0


class SendDeadLetters(Duty):
    """Tells the tasks of PGONLY["QUEUES"] of jobs that have failed, and this worker of the jobs that do so."""

    name, rest_seconds, asks_before_sleep = "Sending dead letters", LETTERS_SECONDS, True

    def __init__(self, workplace: Workplace) -> None:
        super().__init__(workplace)
        if dead_letter_tasks():
            self.interval, self.hears = BUSY_SECONDS, (FAILED,)
        self._warned: set[str] = set()

    def run(self) -> float:
        waiting, known = queues_with_unsent(self.workplace.database), dead_letter_tasks()
        for queue in set(waiting) - known.keys() - self._warned:
            self._warned.add(queue)
            message = f'Dead letters of failed jobs wait: PGONLY["QUEUES"][{queue!r}] has no "task".'
            emit("queue.dead_letters_unsent", message, level=logging.WARNING, queue=queue)
        ours = [queue for queue in waiting if queue in known]
        most = max(map(self._send, ours), default=0)
        self.needed_at = time.monotonic() if ours else NEVER
        return self.again_in(max(most, len(ours)))

    def _send(self, queue: str) -> int:
        send = partial(send_dead_letters, self.workplace.database, queue, BATCH)
        sent = tried(f"Sending dead letters to {queue!r}", send)
        if sent:
            for payload in (notify.ready(queue), notify.limited(queue)):  # whichever claim takes them
                self.workplace.tell(payload)
        return sent


class CloseBatches(Duty):
    """Closes batches soon after the end of the last member is written. While some batch is open, a sweep finds those
    whose last worker died before it could, and those of which no NOTIFY told."""

    name, interval, hears, rest_seconds = "Closing batches", NEVER, (notify.BATCH,), LOOK_SECONDS

    def __init__(self, workplace: Workplace) -> None:
        super().__init__(workplace)
        self._wanted: dict[str, float] = {}  # since when
        self._sweep_at, self._sweep_pause = NEVER, SWEEP_SECONDS

    def hear(self, name: str) -> None:
        """Looks whether this batch is over, or any, unless a sweep is planned."""
        if name != notify.ANY_BATCH:
            self._wanted.setdefault(name, time.monotonic())
        elif self._sweep_at == NEVER:
            self._sweep_at = time.monotonic()

    def rest(self) -> None:
        self._sweep_at = NEVER

    def failed(self, error: BaseException) -> float:
        super().failed(error)
        return in_seconds(self._sweep_at)

    def run(self) -> float:
        began = time.monotonic()
        due = {each: self._wanted.pop(each) for each in tuple(self._wanted)}
        sweeps = began >= self._sweep_at
        if sweeps:
            self._sweep_at = began + SWEEP_SECONDS  # also where it fails
        try:
            if due or sweeps:
                connection = self.workplace.connect()
                over = self._sweep(connection) if sweeps else []
                closed = self._close(connection, [*due, *over])
                self._look_again(due, closed.locked, began)
                self._tell(connection, closed)
        except BaseException:
            self._sweep_at = min(self._sweep_at, began + SWEEP_SECONDS)
            raise
        return min(self._sweep_at - time.monotonic(), LOCKED_SECONDS if self._wanted else NEVER)

    def _tell(self, connection: OwnConnection, closed: batches.Closed) -> None:
        for batch_id, has_failed in closed.batches.items():
            what = "not all of its jobs have succeeded" if has_failed else "all of its jobs have succeeded"
            message = f"Batch {batch_id} has finished: {what}."
            emit("queue.batch_finished", message, batch_id=batch_id, has_failed=has_failed)
        if closed.batches:
            self._sweep_pause = SWEEP_SECONDS
        for payload in closed.payloads:
            self.workplace.tell(payload)
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

    def _look_again(self, due: dict[str, float], locked: list[str], began: float) -> None:
        """Looks soon at those that are locked, and does not spend all its time on looks that take long."""
        now = time.monotonic()
        self.rest_seconds = max(LOCKED_SECONDS if locked else now - began, LOOK_SECONDS)
        for batch_id in locked:
            since = due.get(batch_id, began)
            if now - since < LOCKED_AT_MOST:
                self._wanted.setdefault(batch_id, since)
        self.has_more = bool(locked and self._wanted)

    def _sweep(self, connection: OwnConnection) -> list[str]:
        """Returns the open batches that are over. Cancels those whose parent was cancelled or discarded."""
        began = time.monotonic()
        swept = batches.sweep(connection)
        if swept.orphaned:
            alias = self.workplace.database
            with closed_after(alias), patient_transaction(alias):
                cancel_orphaned(alias, swept.orphaned)
        pause = max(self._sweep_pause, SWEEP_DUTY * (time.monotonic() - began))
        self._sweep_pause = min(2 * self._sweep_pause, SWEEP_AT_MOST) if swept.some_open else SWEEP_SECONDS
        self._sweep_at = time.monotonic() + pause if swept.some_open else NEVER
        return swept.over


class DeclareQueues(Duty):
    """Repeats what the settings declare: an older process may have said something else, and a declaration that no
    process confirms can be replaced by any."""

    name = "Declaring queues"

    def run(self) -> float:
        alias = self.workplace.database
        with patient_transaction(alias):
            if declare(alias) and settings().queues:
                notify.wake_after_commit(alias, notify.limited(notify.ANY_QUEUE))
        return self.again_in(0)


def declare(alias: str) -> int:
    """Declares queues: those of PGONLY["QUEUES"] with their limits, and all that TASKS names, so that the admin lists
    them. Returns how many rows are new or have changed. Raises ImproperlyConfigured, and django.db.Error."""
    backends = [backend for backend in map(_backend, task_backends) if backend is not None]
    names = {str(name) for backend in backends if backend.database == alias for name in backend.queues}
    with closed_after(alias):
        return declare_queues(alias, names)


def _backend(alias: str) -> PostgresBackend | None:
    """Returns None for an entry in TASKS that is not ours or cannot be imported: no business of this worker."""
    try:
        backend = task_backends[alias]
    except InvalidTaskBackend:
        return None
    return backend if isinstance(backend, PostgresBackend) else None


DUTIES: tuple[type[Duty], ...] = (SendDeadLetters, CloseBatches, DeclareQueues)
