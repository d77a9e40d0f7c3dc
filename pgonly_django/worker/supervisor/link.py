"""The child's side: it tells its supervisor how it goes, hears from it, and stops when the supervisor is gone."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any

from pgonly_django.events import emit
from pgonly_django.worker.inbox import wait_for_input
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.retirement import Retirement
from pgonly_django.worker.status import Status
from pgonly_django.worker.supervisor.channel import Channel

CHANGED_SECONDS = 1.0  # a status that has changed is sent so often
SAME_SECONDS = 10.0
STARTING_SECONDS = 0.1  # it is told soon when the worker is ready
LAST_FLUSH_SECONDS = 1.0
DATABASE_SECONDS = 0.1  # between two looks whether it is there


def is_database_there(worker: WorkerLoop) -> bool:
    """Wait for it, before the worker starts: its process may be started while the database is away. False when the
    process is told to stop in that time."""
    while worker.database.connection() is None:
        worker.turned_at = time.monotonic()
        if worker.is_stopping or worker.deadline.is_over(worker.turned_at):
            return False
        time.sleep(DATABASE_SECONDS)
    return True


class Link(threading.Thread):
    """A thread: also while jobs keep the main loop from turning it tells that this process lives."""

    def __init__(self, worker: WorkerLoop, channel: Channel) -> None:
        super().__init__(name="pgonly-supervisor-link", daemon=True)
        self.worker = worker
        self.channel = channel
        self.retirement = Retirement(worker.options)
        self._turning = threading.Lock()
        self._is_over = False
        self._sent: Status | None = None
        self._sent_at = 0.0
        self._has_retired = False

    def start(self) -> None:
        """The worker's id is told before its first claim: whenever it dies, its jobs can be found."""
        self.tell_status()
        super().start()

    def run(self) -> None:
        while not self._is_over:
            seconds = CHANGED_SECONDS if self.worker.ready.is_set() else STARTING_SECONDS
            wait_for_input(seconds, self.channel.fileno())
            with self._turning:
                if not self._is_over:
                    self._turn_safely()

    def _turn_safely(self) -> None:
        """Without this thread the process would tell nothing, and be killed with its jobs."""
        try:
            self._turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next turn may go well
            said = f"The status could not be told to the supervisor, trying again: {error!r}"
            emit("worker.status_not_told", said, level=logging.ERROR, exc_info=True)

    def _turn(self) -> None:
        for message in self.channel.receive():
            self._obey(message)
        if self.channel.is_closed:
            self._is_over = True
            said = "The supervisor is gone: this process gives its jobs back and ends."
            emit("worker.supervisor_gone", said, level=logging.WARNING, worker=self.worker.options.name)
            self.worker.stop()
            return
        self.tell_status()
        self._retire_if_due()

    def _retire_if_due(self) -> None:
        """It claims nothing more from now on, whatever the other processes do; the supervisor hears why."""
        if self._has_retired:
            return
        reason = self.retirement.reason(is_used_up=self.worker.room.is_used_up)
        if reason is not None:
            self._has_retired = True
            self.worker.retire()
            self.tell_status()  # with the jobs that it has claimed
            self.channel.send({"retire": reason})

    def _obey(self, message: dict[str, Any]) -> None:
        if "retire" in message:
            self.worker.retire()
        if isinstance(message.get("payload"), str):  # for the main loop, as a NOTIFY brings them
            self.worker.inbox.put(message["payload"])

    def tell_status(self) -> None:
        status, now = self.worker.status(), time.monotonic()
        is_same = self._sent is not None and replace(status, turned_at=0.0) == replace(
            self._sent, turned_at=0.0
        )
        if self.channel.is_flushed and (not is_same or now - self._sent_at >= SAME_SECONDS):
            self.channel.send({"status": status.as_dict()})
            self._sent, self._sent_at = status, now
        self.channel.flush()

    def end(self) -> None:
        """The worker has ended. Tell whether all its jobs have gone back, so that nothing is to be taken back."""
        with self._turning:
            self._is_over = True
            self.channel.send({"status": self.worker.status().as_dict()})
            self._retire_if_due()  # its last jobs may have taken less time than a turn
            self.channel.send({"holds_nothing": self.worker.in_flight.is_empty})
            self.channel.send({"is_out_of_time": self.worker.deadline.claims_nothing})
            deadline = time.monotonic() + self.worker.deadline.at_most(LAST_FLUSH_SECONDS)
            while not self.channel.is_flushed and time.monotonic() < deadline:
                time.sleep(0.01)
                self.channel.flush()
