"""Does what a cancelled or unanswered call left undone, in one thread, which tries again while that is of use."""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from pgonly_django.database import testrun
from pgonly_django.events import log_quietly
from pgonly_django.exceptions import PgonlyError

RETRY_SECONDS = 1.0
# How long undo() looks for what an unanswered statement did: after PostgreSQL answers again, and in all. A server that
# stood still reads only then what it was sent before.
UNCONFIRMED_SECONDS, UNANSWERED_SECONDS = 5.0, 600.0

Work = Callable[[], object]
Databases = list[object] | None


class Background:
    """The background work of one `room`. The thread exists while there is something to do. It is not a daemon: a
    process that ends tries once more."""

    def __init__(self, room: str) -> None:
        self._room = room
        self.forget()
        os.register_at_fork(after_in_child=self.forget)  # what is undone is the parent's

    def forget(self) -> None:
        self._undone: deque[tuple[Work, float, Databases]] = deque()
        # Reentrant: the garbage collector may call add() in this thread while it holds the lock.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None

    def add(self, work: Work, seconds: float) -> None:
        """Does `work` in the background. When it raises a PgonlyError, it is tried again, for `seconds` at most."""
        with self._lock:
            self._undone.append((work, time.monotonic() + seconds, testrun.databases()))
            if self._thread is None or not self._thread.is_alive():
                with contextlib.suppress(RuntimeError):  # the interpreter is ending and starts no threads
                    thread = threading.Thread(target=self._work, name=f"pgonly {self._room} background")
                    thread.start()
                    self._thread = thread

    def undo(self, undo: Callable[[], object]) -> None:
        """Undoes a statement that was cut off or not answered: PostgreSQL may have done it, or may still do it. `undo`
        returns whether there was something to undo. While there is nothing, and while it raises a PgonlyError, it is
        tried again: until it has answered for UNCONFIRMED_SECONDS, and for UNANSWERED_SECONDS at most. A process that
        ends tries once more.
        """
        give_up_at: float | None = None

        def look() -> None:
            nonlocal give_up_at
            try:
                is_done = undo()
            except PgonlyError:
                give_up_at = None
                raise
            if not is_done:
                now = time.monotonic()
                give_up_at = now + UNCONFIRMED_SECONDS if give_up_at is None else give_up_at
                if now < give_up_at:
                    raise PgonlyError("There is nothing to undo yet.")

        self.add(look, UNANSWERED_SECONDS)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._undone:
                    self._thread = None
                    return
            for _ in range(len(self._undone)):
                self._try(*self._undone.popleft())
            if self._undone:
                time.sleep(RETRY_SECONDS)

    def _try(self, work: Work, give_up_at: float, databases: Databases) -> None:
        if databases != testrun.databases():
            return  # a test left it undone, and its databases have been replaced
        try:
            work()
        except testrun.Refusal:
            return
        except PgonlyError:
            if time.monotonic() < give_up_at and threading.main_thread().is_alive():
                self._undone.append((work, give_up_at, databases))
        except BaseException:  # noqa: BLE001 - what others left undone is done all the same
            message = "What a call left undone failed."
            log_quietly(partial(logging.getLogger(f"pgonly_django.{self._room}").exception, message), message)
