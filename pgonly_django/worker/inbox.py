"""Where the loop waits: for what threads and signal handlers put here, and for a socket of the database at once."""

from __future__ import annotations

import selectors
import signal
import socket
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

Message = TypeVar("Message")

RINGS = 4096  # taken off at a time

# The registry of these two lives in this process: a descriptor that was closed and given out anew is no other to them.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


def wait_for_input(seconds: float, *sockets: int) -> set[int]:
    """Which of `sockets` have something to read, after at most `seconds`."""
    with _Selector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        return {key.fd for key, _ in selector.select(seconds)}


class Inbox(Generic[Message]):
    """Any thread and any signal handler may put(); one thread takes."""

    def __init__(self) -> None:
        self._mail: deque[Message] = deque()
        self._is_asleep = False
        self._bell: socket.socket | None = None
        self._bedside: socket.socket | None = None
        self._wakeup_before: int | None = None

    def put(self, mail: Message) -> None:
        # In this order, as take() has its own: either it sees the mail, or we see it asleep. One ring is enough.
        self._mail.append(mail)
        if self._is_asleep and self._bell is not None:
            self._is_asleep = False
            with suppress(OSError):  # full of rings, so that it will wake; or closed
                self._bell.send(b"!")

    def take(self, at_most: int, seconds: float, database: int | None = None) -> list[Message]:
        """What came, the oldest first. With nothing there, wait until something comes, or the socket `database` has
        something to read, or `seconds` are over."""
        if seconds > 0:
            bedside = self._bedside or self._hang_bell()
            self._is_asleep = True
            try:
                if not self._mail:
                    _sleep(seconds, bedside, database)
            finally:
                self._is_asleep = False
        return [self._mail.popleft() for _ in range(min(at_most, len(self._mail)))]

    def wake_on_signals(self) -> None:
        """Until close() a signal rings as well. Its handler alone would wait for the sleeper, where another thread
        got the signal, or where it came after the last look for mail. For the main thread only."""
        if self._bell is None:
            self._hang_bell()
        assert self._bell is not None
        self._wakeup_before = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        """Nobody takes any more; what is put from now on is for nobody."""
        if self._wakeup_before is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            self._wakeup_before = None
        if self._bell is not None and self._bedside is not None:
            self._bell.close()
            self._bedside.close()

    def _hang_bell(self) -> socket.socket:
        self._bell, self._bedside = socket.socketpair()
        self._bell.setblocking(False)
        return self._bedside


def _sleep(seconds: float, bedside: socket.socket, database: int | None) -> None:
    bell = bedside.fileno()
    if bell in wait_for_input(seconds, *((bell,) if database is None else (bell, database))):
        bedside.recv(RINGS)
