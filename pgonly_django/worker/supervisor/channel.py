"""A pair of sockets between the supervisor and one of its processes. Both send JSON, one object per line: the process
tells how its worker is and why it ends (see Process.hear()), the supervisor sends payloads as a NOTIFY brings them."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any, Self

RECEIVE_BYTES = 262_144  # more than the system keeps for a socket; a line that is longer is none of ours


class Channel:
    """One end of the pair. No call of it waits. For one thread at a time."""

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
        """Sends a message. It is lost when the other side has ended, or has not read for long."""
        with suppress(OSError):
            self._end.send(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Returns the messages that have come, the oldest first. Anything that is not a message is dropped."""
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
