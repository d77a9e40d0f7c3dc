"""One tick of this process at a time. Its loop runs in a thread of its own, whatever kind of server answers the
request, so that a transaction, an event loop or a signal of the server does not reach into it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections

from pgonly_django.compat import call_before_threads_are_joined, task_backends
from pgonly_django.events import emit
from pgonly_django.exceptions import PgonlyError
from pgonly_django.queue import health, promote
from pgonly_django.tasks import PostgresBackend
from pgonly_django.worker import forked_child
from pgonly_django.worker.tick.loop import TickLoop

RELEASE_SECONDS = 2.0  # for the jobs of a process that is about to end
LEFT_AT_MOST = 4  # threads of earlier ticks, whose jobs ignore their interruption


class BusyError(PgonlyError):
    """This process is in the middle of a tick."""


class StuckError(PgonlyError):
    """Jobs of earlier ticks still run here, though they were interrupted and given back."""

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} jobs of earlier ticks ignore their interruption in this process: give their network calls a "
            "timeout, and restart the process."
        )


class TickRun(threading.Thread):
    """`done` is called in this thread at the end."""

    def __init__(self, alias: str, seconds: float, done: Callable[[], None]) -> None:
        super().__init__(name="pgonly-tick", daemon=True)
        self.loop = TickLoop(alias, seconds)
        self._alias, self._done = alias, done
        self._is_over = threading.Event()
        self._answer: dict[str, Any] = {}
        self._error: BaseException | None = None

    def wait(self, seconds: float) -> bool:
        """Whether it is over."""
        return self._is_over.wait(seconds)

    def stop(self) -> None:
        """Nobody waits for the answer any more: a planned stop."""
        self.loop.stop()

    def release(self) -> None:
        """The process is about to end: give the jobs back now."""
        self.loop.stop_now()
        self.wait(RELEASE_SECONDS)

    def answer(self) -> dict[str, Any]:
        """Once it is over. Raises what its loop raised."""
        if self._error is not None:
            raise self._error
        return self._answer

    def run(self) -> None:
        try:
            forked_child.prepare({})  # a child that a job forks must not write the job's end
            try:
                self.loop.run()
            finally:
                forked_child.undo_prepare()
            self._answer = self._summary()
        except BaseException as error:  # noqa: BLE001 - the request raises or tells it
            self._error = error
        finally:
            with suppress(Exception):  # a connection may break while it is closed
                connections.close_all()
            _end(self)
            self._is_over.set()
            self._done()

    def _summary(self) -> dict[str, Any]:
        loop, seen = self.loop, promote.count_waiting(self._alias)
        oldest = health.oldest_waiting(self._alias)
        due = [each for each in (seen.next_due_in_seconds, loop.next_tick_in_seconds) if each is not None]
        return {
            "done": loop.following.jobs_done,
            "failed": loop.following.jobs_failed,
            "released": loop.following.jobs_released,
            "ready": seen.ready,
            "oldest_seconds": None if oldest is None else round(oldest.seconds, 1),
            "next_due_seconds": round(max(min(due), 0.0), 1) if due else None,
        }


_lock = threading.Lock()
_going: TickRun | None = None
_left: list[threading.Thread] = []


def begin(seconds: float, done: Callable[[], None] = lambda: None) -> TickRun:
    """Start a tick. Raises BusyError, StuckError and ImproperlyConfigured."""
    global _going, _left  # noqa: PLW0603 - facts of the process
    with _lock:
        if _going is not None:
            raise BusyError
        _left = [thread for thread in _left if thread.is_alive()]
        if len(_left) >= LEFT_AT_MOST:
            raise StuckError(len(_left))
        tick = TickRun(database_of_jobs(), seconds, done)
        tick.start()
        _going = tick
    return tick


def _end(tick: TickRun) -> None:
    global _going  # noqa: PLW0603 - likewise
    with _lock:
        if _going is tick:
            _going = None
        left = tick.loop.slots.alive()
        _left.extend(left)
    if left:
        message = f"A tick is over, and {len(left)} job(s) that it has given back still run in this process."
        emit("worker.tick_left", message, level=logging.WARNING, threads=len(left))


def database_of_jobs() -> str:
    """As `runworker` without --database has it. Raises ImproperlyConfigured."""
    ours = {backend.database for backend in task_backends.all() if isinstance(backend, PostgresBackend)}
    if not ours:
        raise ImproperlyConfigured("TASKS has no entry of pgonly_django, so that no job can reach a tick.")
    return ours.pop() if len(ours) == 1 else DEFAULT_DB_ALIAS


def _release_at_exit() -> None:
    """The server's process ends in the middle of a tick."""
    if _going is not None:
        _going.release()


def _forget_after_fork() -> None:
    """The child has neither the thread of the tick nor the one that may hold the lock."""
    global _going, _lock, _left
    _going, _lock, _left = None, threading.Lock(), []


call_before_threads_are_joined(_release_at_exit)
os.register_at_fork(after_in_child=_forget_after_fork)
