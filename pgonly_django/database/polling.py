"""Waits for one socket, with poll() where Python has it. Eventlet removes it, and Windows has none."""

from __future__ import annotations

import select
from typing import Protocol

READ, WRITE = 1, 4  # POLLIN and POLLOUT, the same everywhere


class Poll(Protocol):
    def register(self, descriptor: int, events: int, /) -> None: ...
    def modify(self, descriptor: int, events: int, /) -> None: ...
    def poll(self, milliseconds: float | None = None, /) -> list[tuple[int, int]]: ...


def new_poll() -> Poll:
    # Looked up at each call: eventlet may be imported after this module.
    kind: type[Poll] = getattr(select, "poll", PollBySelect)
    return kind()


class PollBySelect:
    """select() of one socket in the shape of poll(); under eventlet other green threads run during the wait."""

    def register(self, descriptor: int, events: int, /) -> None:
        self._descriptor, self._events = descriptor, events

    modify = register

    def poll(self, milliseconds: float | None = None, /) -> list[tuple[int, int]]:
        """The socket and what it is ready for; nothing when the time is over."""
        seconds = None if milliseconds is None else milliseconds / 1000
        reads, writes = ([self._descriptor] if self._events & event else [] for event in (READ, WRITE))
        readable, writable, _ = select.select(reads, writes, [], seconds)
        ready = READ * bool(readable) | WRITE * bool(writable)
        return [(self._descriptor, ready)] if ready else []
