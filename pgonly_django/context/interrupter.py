"""Interrupts a running job from outside: raises an exception in its thread, or cancels its asyncio task."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time

from pgonly_django.exceptions import JobInterrupt

_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exception.argtypes = (ctypes.c_ulong, ctypes.c_void_p)  # by address

# CPython raises a pending exception at a jump backwards, so one is enough. Taking it back (NULL) does not help: up to
# 3.12 that leaves a flag behind which slows all threads, and with which 3.11 hangs under a debugger or coverage.
JUMPS = 100

Task = tuple[asyncio.AbstractEventLoop, "asyncio.Task[object]"]


class Interrupter:
    """Open while the job's own code runs. Only then does interrupt() reach it, and once at most. There is one token;
    interrupt() and close() compete for it. CPython raises an asynchronous exception between two bytecodes, so a thread
    that waits inside a C call (a socket, a sleep) notices it when that call returns."""

    __slots__ = ("_is_sent", "_task", "_thread", "_token", "has_reached_job")

    def __init__(self) -> None:
        self._token: list[None] = []
        self._thread: int | None = None
        self._task: Task | None = None
        self._is_sent = False
        self.has_reached_job = False  # the interruption was raised in the job's own code

    def open_thread(self) -> None:
        self._thread = threading.get_ident()
        self._token.append(None)

    def open_task(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object]) -> None:
        self._task = (loop, task)
        self._token.append(None)

    def close(self) -> None:
        """After this, no interruption arrives. One on its way to this thread is caught here: it missed the job."""
        if take(self._token) or self._thread is None:
            return
        try:
            while not self._is_sent:
                time.sleep(0.0001)
            for _ in range(JUMPS):
                pass
        except JobInterrupt:
            return
        self.has_reached_job = True

    def interrupt(self, reason: type[JobInterrupt]) -> bool:
        """Raise `reason` in the job's thread, or cancel its task. False when the job's code does not run, or was
        interrupted before."""
        if not take(self._token):
            return False
        if self._thread is not None:
            _set_async_exception(self._thread, id(reason))
        elif self._task is not None:
            self._task[0].call_soon_threadsafe(self._cancel)
        self._is_sent = True
        return True

    def _cancel(self) -> None:
        if self._task is not None and self._task[1].cancel():
            self.has_reached_job = True


def take(token: list[None]) -> bool:
    """True for the first caller only, of any thread. A lock would not do: an exception between two bytecodes could
    leave it held."""
    try:
        token.pop()
    except IndexError:
        return False
    return True
