"""A pair of sockets between the supervisor and one of its processes. Both send JSON, one object a line."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any, Self

RECEIVE_BYTES = 65_536
# More than this is not kept: the other side does not read, or something else has written into the socket.
KEPT_BYTES = 262_144


class Channel:
    """One end. No call of it waits. For one thread at a time."""

    def __init__(self, end: socket.socket, kept_bytes: int = KEPT_BYTES) -> None:
        end.setblocking(False)
        self.kept_bytes = kept_bytes
        self.is_closed = False  # the other side is gone
        self._end = end
        self._to_send = b""
        self._received = b""

    @classmethod
    def pair(cls, kept_bytes: int = KEPT_BYTES) -> tuple[Self, Self]:
        ours, theirs = socket.socketpair()
        return cls(ours, kept_bytes), cls(theirs, kept_bytes)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Lost when the other side is gone, or has not read for long."""
        line = json.dumps(message).encode() + b"\n"
        if len(self._to_send) + len(line) <= self.kept_bytes:
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
        self._read()
        *lines, self._received = self._received.split(b"\n")
        if len(self._received) > self.kept_bytes:
            self._received = b""
        return [message for message in map(_message, lines) if message is not None]

    def _read(self) -> None:
        try:
            while data := self._end.recv(RECEIVE_BYTES):
                self._received += data
                if len(self._received) > self.kept_bytes:
                    return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.is_closed = True

    def close(self) -> None:
        self._to_send = b""
        self._end.close()


def _message(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    return None
