"""A pair of sockets between the supervisor and one of its processes. Both send JSON, one object a line: the process
tells how its worker is and why it ends (see Process.hear()), the supervisor sends payloads as a NOTIFY brings them."""

from __future__ import annotations

import json
import logging
import socket
import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Self

from pgonly_django.events import emit
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.status import Status

RECEIVE_BYTES = 262_144  # more than the system keeps for a socket; a line that is longer is none of ours
SAME_SECONDS = 10.0  # a status that has not changed is sent so often
DATABASE_SECONDS = 0.1  # between two looks whether it is there


class Channel:
    """One end. No call of it waits. For one thread at a time."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.is_closed = False  # the other side is gone
        self._end = end
        self._received = b""

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Lost when the other side is gone, or has not read for long."""
        with suppress(OSError):
            self._end.send(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """What has come, the oldest first. What is no message is dropped."""
        try:
            data = self._end.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.is_closed = not data
        *lines, rest = (self._received + data).split(b"\n")
        self._received = rest if len(rest) <= RECEIVE_BYTES else b""
        return [message for message in map(_message, lines) if message is not None]

    def close(self) -> None:
        self._end.close()


def _message(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    return None


class Link:
    """The process's end: it tells the supervisor how its worker is, and passes on what the supervisor says. One thread
    calls it, also while jobs keep the main loop from turning."""

    def __init__(self, worker: WorkerLoop, channel: Channel) -> None:
        self.worker, self.channel = worker, channel
        self._told: Status | None = None
        self._told_at = 0.0

    def turn(self) -> None:
        if self.channel.is_closed:
            return
        for message in self.channel.receive():
            self.worker.inbox.put(str(message.get("payload")))
        if self.channel.is_closed:
            said = "The supervisor is gone: this process gives its jobs back and ends."
            emit("worker.supervisor_gone", said, level=logging.WARNING, worker=self.worker.options.name)
            self.worker.stop()
        self.tell_status()

    def tell_status(self) -> None:
        """Where it has changed."""
        status, told = self.worker.status(), self._told
        is_same = told is not None and replace(status, turned_at=told.turned_at) == told
        if not is_same or time.monotonic() - self._told_at >= SAME_SECONDS:
            self._tell(status)

    def retire(self, reason: str) -> None:
        """This process claims nothing more, whatever the others do. The supervisor hears why."""
        self._tell(self.worker.status(), retire=reason)

    def end(self) -> None:
        """The worker has ended. Tell whether all its jobs have gone back, so that nothing is to be taken back."""
        holds_nothing, is_out_of_time = self.worker.in_flight.is_empty, self.worker.deadline.claims_nothing
        self._tell(self.worker.status(), holds_nothing=holds_nothing, is_out_of_time=is_out_of_time)

    def _tell(self, status: Status, **facts: Any) -> None:
        self.channel.send({"status": asdict(status), **facts})
        self._told, self._told_at = status, time.monotonic()


def is_database_there(worker: WorkerLoop) -> bool:
    """Wait for it, before the worker starts: its process may be started while the database is away. False when the
    process is told to stop in that time."""
    while worker.database.connection() is None:
        worker.turned_at = time.monotonic()
        if worker.is_stopping or worker.turned_at >= worker.deadline.stop_at:
            return False
        time.sleep(DATABASE_SECONDS)
    return True
