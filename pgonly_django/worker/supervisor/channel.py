"""A pair of sockets between the supervisor and one of its processes. Both send JSON, one object a line."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Self

from pgonly_django.events import emit
from pgonly_django.worker.inbox import Notification
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.status import Status
from pgonly_django.worker.supervisor.taking_back import take_back

RECEIVE_BYTES = 65_536
# More than this is not kept: the other side does not read, or something else has written into the socket.
KEPT_BYTES = 262_144
SAME_SECONDS = 10.0  # a status that has not changed is sent so often
LAST_FLUSH_SECONDS = 1.0
DATABASE_SECONDS = 0.1  # between two looks whether it is there


class Channel:
    """One end. No call of it waits. For one thread at a time."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.is_closed = False  # the other side is gone
        self._end = end
        self._to_send = b""
        self._received = b""

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Lost when the other side is gone, or has not read for long."""
        line = json.dumps(message).encode() + b"\n"
        if len(self._to_send) + len(line) <= KEPT_BYTES:
            self._to_send += line
        self.flush()

    def flush(self) -> None:
        """Send what could not be sent at once."""
        try:
            while self._to_send:
                self._to_send = self._to_send[self._end.send(self._to_send) :]
        except BlockingIOError:
            pass
        except OSError:
            self._to_send = b""

    @property
    def is_flushed(self) -> bool:
        return not self._to_send

    def receive(self) -> list[dict[str, Any]]:
        """What has come, the oldest first. What is no message is dropped."""
        try:
            while len(self._received) <= KEPT_BYTES:
                data = self._end.recv(RECEIVE_BYTES)
                self._received += data
                if not data:
                    self.is_closed = True
                    break
        except BlockingIOError:
            pass
        except OSError:
            self.is_closed = True
        *lines, self._received = self._received.split(b"\n")
        if len(self._received) > KEPT_BYTES:
            self._received = b""
        return [message for message in map(_message, lines) if message is not None]

    def close(self) -> None:
        self._to_send = b""
        self._end.close()


def _message(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    return None


def is_database_there(worker: WorkerLoop) -> bool:
    """Wait for it, before the worker starts: its process may be started while the database is away. False when the
    process is told to stop in that time."""
    while worker.database.connection() is None:
        worker.turned_at = time.monotonic()
        if worker.is_stopping or worker.turned_at >= worker.deadline.stop_at:
            return False
        time.sleep(DATABASE_SECONDS)
    return True


class Link:
    """The process's end: it tells the supervisor how its worker is, and does what the supervisor asks for. One thread
    calls it, also while jobs keep the main loop from turning."""

    def __init__(self, worker: WorkerLoop, channel: Channel, wake: Callable[[], None]) -> None:
        """`wake`, which any thread may call, makes the next turn come now."""
        self.worker = worker
        self.channel = channel
        self._wake = wake
        self._sent: Status | None = None
        self._sent_at = 0.0
        self._answers: deque[dict[str, Any]] = deque()
        self._is_free = True  # no thread takes jobs back

    def turn(self) -> None:
        if self.channel.is_closed:
            return
        for message in self.channel.receive():
            self._obey(message)
        if self.channel.is_closed:
            said = "The supervisor is gone: this process gives its jobs back and ends."
            emit("worker.supervisor_gone", said, level=logging.WARNING, worker=self.worker.options.name)
            self.worker.stop()
        while self._answers:
            self.channel.send(self._answers.popleft())
        self.tell_status()

    def _obey(self, message: dict[str, Any]) -> None:
        if "retire" in message:
            self.worker.retire()
        if isinstance(message.get("payload"), str):  # for the main loop, as a NOTIFY brings them
            self.worker.inbox.put(Notification.parse(message["payload"]))
        # A connect may hang: then the supervisor asks again, and gets the one answer when that is over.
        if isinstance(dead := message.get("take_back"), list) and self._is_free:
            self._is_free = False
            thread = threading.Thread(
                target=self._take_back, args=(dead,), name="pgonly-taking-back", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # the system starts no more threads
                self._is_free = True
                self._answers.append({"taken_back": [], "error": str(error)})

    def _take_back(self, dead: list[list[Any]]) -> None:
        name = f"pgonly taking back {self.worker.id}"
        self._answers.append(take_back(self.worker.options.database, dead, name, self.worker.inbox.put))
        self._is_free = True
        self._wake()

    def tell_status(self) -> None:
        status, now = self.worker.status(), time.monotonic()
        is_same = self._sent is not None and replace(status, turned_at=self._sent.turned_at) == self._sent
        if self.channel.is_flushed and (not is_same or now - self._sent_at >= SAME_SECONDS):
            self.channel.send({"status": asdict(status)})
            self._sent, self._sent_at = status, now
        self.channel.flush()

    def retire(self, reason: str) -> None:
        """This process claims nothing more, whatever the others do. The supervisor hears why."""
        self.tell_status()  # with the jobs that it has claimed
        self.channel.send({"retire": reason})

    def end(self) -> None:
        """The worker has ended. Tell whether all its jobs have gone back, so that nothing is to be taken back."""
        self.channel.send({"status": asdict(self.worker.status())})
        self.channel.send({"holds_nothing": self.worker.in_flight.is_empty})
        self.channel.send({"is_out_of_time": self.worker.deadline.claims_nothing})
        deadline = time.monotonic() + self.worker.deadline.at_most(LAST_FLUSH_SECONDS)
        while not self.channel.is_flushed and time.monotonic() < deadline:
            time.sleep(0.01)
            self.channel.flush()
