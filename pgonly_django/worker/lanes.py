"""Threads for calls that may be slow, hang, raise anything or fork: the code of the project, and what waits for it."""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from django.db import connections

from pgonly_django.worker import forked_child
from pgonly_django.worker.django_connections import clean_up_connections, take_from
from pgonly_django.worker.timers import NEVER, Timer

HANGS_SECONDS = 60.0


class Lane(Timer):
    """Makes calls one after the other, in a daemon thread that starts with the first of them.

    A call that takes longer than `hangs_seconds` keeps its thread, and the next calls get another one, while fewer than
    `threads` live. For that the owner of the lane calls run() when it is due, as the main loop does with its timers:
    it calls `tell_hang(what, stuck)` once for each such call, with its name and the number of threads that are stuck.
    `keeps_connections`: while more calls wait, Django's connections of the thread are not put in order after each one.
    Any number of calls may wait: where they may be too many, look at `waiting` first.
    """

    def __init__(
        self, name: str, *, threads: int = 1, hangs_seconds: float | None = None, keeps_connections: bool = False,
        tell_hang: Callable[[str, int], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(NEVER)
        self.name, self._threads_at_most, self._tell_hang = name, threads, tell_hang
        self._hangs_seconds = hangs_seconds
        self._keeps_connections = keeps_connections
        self._inbox: queue.SimpleQueue[tuple[Callable[[], object], str] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []  # the last one serves, and the calls of the others hang
        self._starting = threading.Lock()
        self._busy: tuple[float, str] | None = None  # since when, and with what
        self._is_closed = False

    def submit(self, call: Callable[[], object], what: str = "") -> None:
        """Adds a call, for any thread; `what` is its name for messages. Where the system starts no thread, the next one
        tries again, and close() makes the calls. After close() has ended the thread, the caller makes the call."""
        if self._is_closed and not self._is_alive:
            self._make(call)
            return
        self._inbox.put((call, what))
        if not self._threads and self._starting.acquire(blocking=False):
            with suppress(RuntimeError):  # the system starts no more threads
                if not self._threads:
                    self._start_thread()
            self._starting.release()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
        thread.start()
        self._threads = [*self._threads, thread]

    @property
    def waiting(self) -> int:
        """The number of calls that have not begun."""
        return self._inbox.qsize()

    @property
    def is_going(self) -> bool:
        """Whether a call runs or waits. One that was told of as hanging does not count."""
        return self._busy is not None or not self._inbox.empty()

    @property
    def due_at(self) -> float:
        busy = self._busy  # which the thread may set at any time
        return NEVER if busy is None else busy[0] + (self._hangs_seconds or HANGS_SECONDS)

    def run(self) -> None:
        """Tells of a call that hangs, and starts another thread."""
        busy = self._busy
        if busy is None or time.monotonic() < self.due_at:
            return
        self._busy = None  # said once
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if self._tell_hang is not None:
            self._tell_hang(busy[1], len(self._threads))
        if len(self._threads) < self._threads_at_most:
            with suppress(RuntimeError):  # likewise
                self._start_thread()

    def rest(self) -> None:
        """Closes the connections of the thread; the next call opens others. The thread stays: close() waits for it."""
        if self._threads:
            self.submit(_close_connections)

    def close(self, timeout: float) -> bool:
        """Ends the thread after all calls, and waits for that at most `timeout` seconds. Returns whether it has."""
        self._is_closed = True
        if self._threads:
            self._inbox.put(None)
            self._threads[-1].join(timeout)
        elif self.waiting:
            self._serve()
        return not self._is_alive

    # The thread.

    def _serve(self) -> None:
        while not (self.is_replaced or (self._is_closed and self._inbox.empty())):
            item = take_from(self._inbox)
            if item is None:  # closed: what was submitted since is called, too
                continue
            call, what = item
            self._busy = time.monotonic(), what
            self._make(call)
            if not self._keeps_connections or self._inbox.empty():
                clean_up_connections(f"{self.name} of {what}")
            if not self.is_replaced:
                self._busy = None
        _close_connections()

    def _make(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException:  # noqa: BLE001 - code of the project may raise anything; the next call counts
            with suppress(BaseException):
                sys.stderr.write(f"A call in the thread {self.name} failed:\n{traceback.format_exc()}")
        if forked_child.is_child:  # it has forked
            forked_child.leave()

    @property
    def _is_alive(self) -> bool:
        return bool(self._threads) and self._threads[-1].is_alive()

    @property
    def is_replaced(self) -> bool:
        """Called by a thread whose call hung, after the call returns."""
        return threading.current_thread() in self._threads[:-1]


def _close_connections() -> None:
    with suppress(Exception):  # a connection may break while it is closed
        connections.close_all()
