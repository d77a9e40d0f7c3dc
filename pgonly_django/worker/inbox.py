"""The messages of the main loop, and the place where it waits: at once for messages of threads and signal handlers, and
for a socket of the database. Besides the messages here it gets each run that has ended in this process (EndedRun).
"""

from __future__ import annotations

import selectors
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from pgonly_django.duties import Duty

# Kinds that only this process and its supervisor send. Wake: look for everything. Retire: end after the jobs are done,
# and ask for a fresh process. Rescued, with the id of a job: what follows its end is for this worker to do.
WAKE, RETIRE, RESCUED_FAILED, RESCUED_FINISHED = "wake", "retire", "rescued-failed", "rescued-finished"


@dataclass(frozen=True, slots=True)
class Notification:
    """The payload of a NOTIFY, or a message of a supervisor or a thread in the same form: see database/notify.py."""

    kind: str
    name: str = ""

    @classmethod
    def parse(cls, payload: str) -> Self:
        kind, _, name = payload.partition(" ")
        return cls(kind, name)


@dataclass(frozen=True, slots=True)
class Requested:
    """A heartbeat has read what a person has asked of this worker."""

    request: str


@dataclass(frozen=True, slots=True)
class UnknownClaim:
    """A heartbeat has twice found this job in the name of this worker, which does not know of it."""

    job_id: str
    lease_epoch: int


@dataclass(frozen=True, slots=True)
class DutyDone:
    """The housekeeper has done a duty that the main loop has asked for so often."""

    duty: Duty
    asked: int


@dataclass(frozen=True, slots=True)
class DutiesChecked:
    """The housekeeper has run the duties that are asked before a sleep."""


Message = TypeVar("Message")
Tell = Callable[[Notification | Requested | UnknownClaim | DutyDone | DutiesChecked | str], None]

WAKEUPS_AT_ONCE = 4096

# Not epoll or kqueue, whose registry lives in the kernel: a descriptor that was closed and given out again would still
# be in it.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


def wait_for(sockets: Mapping[int, int], seconds: float) -> dict[int, int]:
    """Returns which of `sockets` (descriptor -> events of `selectors`) are ready, after at most `seconds`."""
    with _Selector() as selector:
        for descriptor, events in sockets.items():
            selector.register(descriptor, events)
        return {key.fd: events for key, events in selector.select(seconds)}


class Inbox(Generic[Message]):
    """Any thread and any signal handler may put(); one thread takes."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._is_waiting = False
        self._waker: socket.socket | None = None  # what is sent here ...
        self._woken: socket.socket | None = None  # ... arrives here, and ends the wait
        self._wakeup_fd_before: int | None = None

    def put(self, message: Message) -> None:
        # In this order, as take() has its own: either it sees the message, or we see it wait. One byte is enough.
        self._messages.append(message)
        if self._is_waiting and self._waker is not None:
            self._is_waiting = False
            with suppress(OSError):  # full of bytes, so that the wait will end; or closed
                self._waker.send(b"!")

    def take(self, at_most: int, seconds: float, database: int | None = None) -> list[Message]:
        """Returns the messages, the oldest first. Without any it waits until one comes, or the socket `database` has
        something to read, or `seconds` have passed."""
        if seconds > 0:
            self.wait(seconds, {} if database is None else {database: selectors.EVENT_READ})
        return [self._messages.popleft() for _ in range(min(at_most, len(self._messages)))]

    def wait(self, seconds: float, others: Mapping[int, int]) -> dict[int, int]:
        """Waits until there is a message, or one of `others` (descriptor -> events of `selectors`) is ready, or
        `seconds` have passed. Returns those of the others that are ready."""
        woken = self._woken or self._open_sockets()
        self._is_waiting = True
        try:
            if self._messages:
                return {}
            ready = wait_for({woken.fileno(): selectors.EVENT_READ, **others}, seconds)
            if ready.pop(woken.fileno(), 0):
                woken.recv(WAKEUPS_AT_ONCE)
            return ready
        finally:
            self._is_waiting = False

    def wake_on_signals(self) -> None:
        """Makes a signal end the wait as well, until close(). Its handler alone runs only when the main thread does:
        where another thread got the signal, or it came just before the wait, that is after the wait. For the main
        thread."""
        if self._waker is None:
            self._open_sockets()
        assert self._waker is not None
        self._wakeup_fd_before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        """Ends it: nothing is taken any more, and what is put from now on is dropped."""
        if self._wakeup_fd_before is not None:
            signal.set_wakeup_fd(self._wakeup_fd_before)
            self._wakeup_fd_before = None
        if self._waker is not None and self._woken is not None:
            self._waker.close()
            self._woken.close()

    def _open_sockets(self) -> socket.socket:
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        return self._woken
