"""The interruption of a job: an exception that is raised in its thread, or the cancellation of its asyncio task."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time

from pgonly_django.exceptions import JobInterrupt

_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exception.argtypes = (ctypes.c_ulong, ctypes.c_void_p)  # by address
# CPython raises a pending exception at a jump backwards, so one is enough. Taking it back (NULL) does not help: up to
# 3.12 that leaves a flag that slows all threads, and with which 3.11 hangs under a debugger or coverage.
JUMPS = 100
Task = tuple[asyncio.AbstractEventLoop, "asyncio.Task[object]"]


class Interrupter:
    """Lets interrupt() reach the job while the job's own code runs, and once at most. There is one token; interrupt()
    and close() compete for it. CPython raises an asynchronous exception between two bytecodes, so a thread that waits
    inside a C call (a socket, a sleep) notices it when that call returns."""

    __slots__ = ("_is_leaving", "_is_sent", "_task", "_thread", "_token", "has_reached_job")

    def __init__(self) -> None:
        self._token: list[None] = []
        self._thread: int | None = None
        self._task: Task | None = None
        self._is_sent = self._is_leaving = False
        self.has_reached_job = False  # the interruption was raised in the job's own code

    @property
    def is_here(self) -> bool:
        """Whether this is the thread or the asyncio task in which the job was started; True before its start. A sync
        job may run an event loop: the tasks of that are others."""
        if self._task is not None:
            return self._task[1] is current_task()
        return self._thread in (None, threading.get_ident()) and current_task() is None

    def cancel_unless_here(self) -> bool:
        """Cancels the first task of an async job, once, if the caller is another task or thread of the job. Returns
        whether the caller is. The token stays: the job may ignore this, and then has to end for another reason."""
        if self._task is None or self.is_here:
            return False
        if not self._is_leaving:
            self._is_leaving = True
            self._task[0].call_soon_threadsafe(self._cancel)
        return True

    def open_thread(self) -> None:
        self._thread = threading.get_ident()
        self._token.append(None)

    def open_task(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object]) -> None:
        self._task = (loop, task)
        self._token.append(None)

    def close(self) -> None:
        """After this call no interruption arrives. One that is under way to this thread is caught: it missed the
        job."""
        try:
            self._token.pop()  # see take()
        except IndexError:
            if self._thread is None:
                return
        else:
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
        """Raises `reason` in the job's thread, or cancels its task. Returns False when the job's code does not run, or
        was interrupted before."""
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


def current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None


def take(token: list[None]) -> bool:
    """Returns True for the first caller only, of any thread. A lock could be left held by an exception between
    bytecodes."""
    try:
        token.pop()
    except IndexError:
        return False
    return True
