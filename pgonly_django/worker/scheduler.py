"""The thread that enqueues the jobs of schedules, exactly when they are due. Between two due times it sends no
statement, and where there are no schedules none at all: a NOTIFY says when one is made or changed."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from uuid import UUID

from django.db import Error, connections

from pgonly_django.events import emit
from pgonly_django.models.schedule import CONFIRM_EVERY
from pgonly_django.scheduling.due import DueSchedules
from pgonly_django.scheduling.settings import declare, needs_confirming
from pgonly_django.tasks.registry import import_tasks
from pgonly_django.worker import forked_child
from pgonly_django.worker.connection import JobsListener
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.timers import NEVER

BLIND_SECONDS = 30.0  # without LISTEN: how long a new or changed schedule may stay unseen
KEEP_OPEN_SECONDS = 10.0  # a connection that is needed again sooner stays open
# Between two tries while the schedules cannot be read: the first, each twice as long as the one before, to the longest.
FIRST_TRY_SECONDS, LONGEST_TRY_SECONDS = 0.5, 30.0
LONGEST_WAIT_SECONDS = 3600.0  # this machine's clock and the database's may drift apart


class Scheduler:
    """The scheduler. `wake_worker` is called when it has looked although the worker sleeps by then. One thread looks.
    Where code of the project hangs in it, another one continues, and the first one ends when that code returns."""

    def __init__(
        self, worker_id: UUID, options: WorkerOptions, listener: JobsListener,
        wake_worker: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.worker_id, self.options, self.listener = worker_id, options, listener
        self.has_looked = threading.Event()  # once, after the start
        self._due = DueSchedules(options.database, self._go_on)
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._over, self._wake = threading.Event(), threading.Event()
        self._has_imported = self._looks_once = False
        self._failure = ""  # the present one, which is logged once
        self._try_seconds = FIRST_TRY_SECONDS
        self._declare_at = 0.0
        self._next_in_seconds: float | None = None
        self._wake_worker = wake_worker
        self._is_asleep = False
        self.next_at = 0.0  # the next tick, as far as is known; NEVER without any

    def hear_changed(self) -> None:
        """Called when a schedule was made or changed."""
        self._wake.set()

    def sleep(self) -> None:
        """Stops looking, and closes the connection, until wake(): at `next_at`, at the latest. For the main loop."""
        self._is_asleep = True
        self._wake.set()

    def wake(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            self._wake.set()

    def end(self) -> None:
        self._over.set()
        self._wake.set()

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """See Thread.join(). Not for a thread that hangs."""
        self._thread.join(timeout)

    def look_once(self) -> float | None:
        """Does what is due now, once. Returns in how many seconds the next schedule is due, as far as is known."""
        self._looks_once = True
        self.start()
        self.has_looked.wait()
        return self._next_in_seconds

    def _go_on(self) -> None:
        """Runs in the thread that looks from now on."""
        self._thread = threading.current_thread()
        self._thread.name = "pgonly-scheduler"
        self._work()

    @property
    def _is_replaced(self) -> bool:
        """Returns whether the code in this thread hung, and another one looks by now."""
        return self._thread is not threading.current_thread() and self._thread.is_alive()

    def _work(self) -> None:
        while not self._is_replaced:
            self._wake.clear()
            if self._over.is_set():  # asked after clear(): end() sets it first
                break
            if self._is_asleep:
                self._close()
                self._wake.wait()
                continue
            pause = self._tried()
            if forked_child.is_child:  # code of the project has forked
                forked_child.leave()
            if self._is_replaced:
                self._wake.set()  # its schedule is due at another time now
                break
            if self._is_asleep:  # since it began to look
                self._wake_worker()
            if self._looks_once or pause > KEEP_OPEN_SECONDS:
                self._close()
            self.has_looked.set()
            if self._looks_once:
                break
            self._wake.wait(min(pause, threading.TIMEOUT_MAX))
        self._close()

    def run_once(self) -> float:
        """Declares what has to be declared, and enqueues what is due. Returns in how many seconds to come again."""
        if not self._has_imported:
            self._has_imported = True
            import_tasks()
        if time.monotonic() >= self._declare_at:
            self._declare()
        seconds = self._due.run(lambda: self._over.is_set() or self._is_replaced)
        if self._is_replaced:
            return 0.0
        self._next_in_seconds = seconds
        self.next_at = NEVER if seconds is None else time.monotonic() + seconds
        waits = [self._declare_at - time.monotonic(), NEVER if self.listener.listens else BLIND_SECONDS]
        if seconds is not None:
            waits.append(min(seconds, LONGEST_WAIT_SECONDS))
        return max(min(waits), 0.0)

    def _declare(self) -> None:
        database = self.options.database
        self._due.known = declare(database, self.worker_id, self.options.lease_for)
        again = CONFIRM_EVERY.total_seconds() if needs_confirming(database) else NEVER
        self._declare_at = time.monotonic() + again

    def _tried(self) -> float:
        """Calls run_once(), whatever it raises: the next schedule counts."""
        try:
            pause = self.run_once()
        except BaseException as error:  # noqa: BLE001 - code of the project is called
            if self._is_replaced:
                return 0.0
            failure, known = f"{type(error).__name__}: {str(error).strip()}", self._failure
            self._failure = failure
            if failure != known:
                message = f"The schedules cannot be read, trying again: {failure}"
                is_away = isinstance(error, Error)
                emit("scheduling.unread", message, level=logging.WARNING, exc_info=not is_away)
            self._close()
            pause, self._try_seconds = self._try_seconds, min(self._try_seconds * 2, LONGEST_TRY_SECONDS)
            self.next_at = time.monotonic() + pause
            return pause
        self._failure, self._try_seconds = "", FIRST_TRY_SECONDS
        return pause

    def _close(self) -> None:
        with contextlib.suppress(Exception):  # a connection may break while it is closed
            connections.close_all()
