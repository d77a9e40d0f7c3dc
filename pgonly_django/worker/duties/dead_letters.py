"""Sends the dead letters of jobs that have failed."""

import logging
from functools import partial
from threading import Event

from pgonly_django.database import notify
from pgonly_django.events import emit
from pgonly_django.queue.failed_jobs import queues_with_unsent
from pgonly_django.tasks.failures import dead_letter_tasks, send_dead_letters
from pgonly_django.worker.inbox import LettersSent, Notification, Tell
from pgonly_django.worker.maintenance import (
    BATCH,
    BUSY_SECONDS,
    Connect,
    Duty,
    Maintenance,
    in_batches,
    tried,
)


class SendDeadLetters(Duty):
    """Tells the tasks of PGONLY["QUEUES"] of jobs that have failed. `tell` gets what wakes this worker."""

    name, may_not_wait = "Sending dead letters", True

    def __init__(self, alias: str, tell: Tell) -> None:
        self.alias = alias
        self.tell = tell
        self.interval = BUSY_SECONDS if dead_letter_tasks() else Duty.interval
        self._warned: set[str] = set()

    def run_once(self, jobs: Connect, over: Event) -> int:  # noqa: ARG002 - a duty's signature
        waiting, known = queues_with_unsent(self.alias), dead_letter_tasks()
        for queue in set(waiting) - known.keys() - self._warned:
            self._warned.add(queue)
            message = f'Jobs have failed whose dead letters wait: PGONLY["QUEUES"][{queue!r}] has no "task".'
            emit("queue.dead_letters_unsent", message, level=logging.WARNING, queue=queue)
        ours = [queue for queue in waiting if queue in known]
        return max(sum(self._send(queue, over) for queue in ours), len(ours))

    def _send(self, queue: str, over: Event) -> int:
        what = f"Sending dead letters to {queue!r}"
        sent = tried(what, in_batches, lambda: send_dead_letters(self.alias, queue, BATCH), over)
        if sent:
            for kind in (notify.READY, notify.LIMITED):  # whichever claim takes them
                self.tell(Notification(kind, queue))
        return sent


class DeadLettersWanted:
    """What the main loop knows of them. A burst waits for the letters of its own failures, and runs them."""

    def __init__(self, maintenance: Maintenance, tell: Tell) -> None:
        self.maintenance = maintenance
        self.tell = tell
        self._wanted = self._sent = 0
        self._are_used = bool(dead_letter_tasks())

    def want(self) -> None:
        """A job has failed."""
        if self._are_used:
            self._wanted += 1
            done = partial(self.tell, LettersSent(self._wanted))
            self.maintenance.run_soon(SendDeadLetters, done)

    def note_sent(self, number: int) -> None:
        self._sent = number

    @property
    def are_due(self) -> bool:
        return self._sent < self._wanted
