"""Reaching into a running job from outside: an exception in its thread, or the cancellation of its task."""

from __future__ import annotations

import asyncio
import ctypes
import threading

from pgonly_django.exceptions import JobInterrupt

_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exception.argtypes = (
    ctypes.c_ulong,
    ctypes.c_void_p,
)  # by address: NULL takes a pending exception back


class Guard:
    """Opened by the slot while the job's own code runs; only then does interrupt() reach it.

    CPython raises an asynchronous exception between two bytecodes: a thread that waits inside a C call (a socket,
    a sleep) feels it when that call returns.
    """

    __slots__ = ("_lock", "_sent", "_task", "_thread")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[object]] | None = None
        self._sent = False

    def open_thread(self) -> None:
        self._thread = threading.get_ident()

    def open_task(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object]) -> None:
        self._task = (loop, task)

    @property
    def is_in_thread(self) -> bool:
        return self._thread is not None

    def close(self) -> None:
        """From here on nothing arrives, and what was under way to this thread is taken back."""
        while True:
            try:
                with self._lock:
                    if self._sent and self._thread is not None:
                        _set_async_exception(self._thread, None)
                    self._thread = self._task = None
            except JobInterrupt:
                continue
            return

    def interrupt(self, reason: type[JobInterrupt]) -> bool:
        """Raise `reason` in the job's thread, or cancel its task. False when its code is not running."""
        with self._lock:
            if self._thread is not None:
                self._sent = True
                _set_async_exception(self._thread, id(reason))
            elif self._task is not None:
                loop, task = self._task
                loop.call_soon_threadsafe(task.cancel)
            else:
                return False
        return True
