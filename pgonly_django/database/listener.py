"""Waking those who wait for another process's lock or computation: one LISTEN connection for all of them.

The connection exists while somebody in this process waits and a little longer. Where LISTEN does not work
(PgBouncer in transaction mode) nobody is woken, and those who wait look by themselves, less and less often.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from typing import Any

import psycopg

from pgonly_django.database import connect
from pgonly_django.database.operation import Signal

CHANNEL = "pgonly_cache"
IDLE_SECONDS = 10.0
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.05, 1.0

_listeners: dict[str, Listener] = {}
_creating = threading.Lock()


def payload(key: bytes) -> bytes:
    """What is notified when something happened to `key`."""
    return hashlib.sha256(key).hexdigest()[:32].encode()


def listener_for(alias: str) -> Listener:
    with _creating:
        return _listeners.setdefault(alias, Listener(alias))


class Watch:
    """Notifications of one payload, from when it was made: none is missed between two waits."""

    def __init__(self, listener: Listener, name: str) -> None:
        self._listener, self._name = listener, name
        self._lock = threading.Lock()
        self._signal: Signal | None = None
        self._missed = False
        self._look_seconds = FIRST_LOOK_SECONDS

    def next(self, at_most: float) -> Signal:
        """The wait for the next notification, or until it is time to look anyway."""
        seconds = max(0.0, min(self._look_seconds, at_most))
        self._look_seconds = min(self._look_seconds * 2, LAST_LOOK_SECONDS)
        with self._lock:
            self._signal = Signal(seconds)
            if self._missed:
                self._signal.set()
            self._missed = False
            return self._signal

    def notify(self) -> None:
        with self._lock:
            if self._signal is None or not self._signal.set():
                self._missed = True

    def close(self) -> None:
        self._listener.forget(self._name, self)


class Listener:
    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._lock = threading.RLock()  # the garbage collector may close a watch while this thread has it
        self._watches: dict[str, set[Watch]] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False

    def watch(self, key: bytes) -> Watch:
        """Start to notice what happens to `key`. Close it afterwards."""
        name = payload(key).decode()
        watch = Watch(self, name)
        with self._lock:
            self._watches.setdefault(name, set()).add(watch)
            if self._thread is None:
                with contextlib.suppress(RuntimeError):  # no thread to be had: who waits looks by himself
                    self._start()
        return watch

    def _start(self) -> None:
        self._stopping = False
        thread = threading.Thread(target=self._listen, name="pgonly cache wake-up", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            self._thread = None
            raise

    def forget(self, name: str, watch: Watch) -> None:
        with self._lock:
            self._watches[name].discard(watch)
            if not self._watches[name]:
                del self._watches[name]

    def stop(self) -> None:
        """Let go of the database within a second or so. The next watch starts anew."""
        self._stopping = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2)

    def _listen(self) -> None:
        try:
            with connect.connect(self._alias, application_name="pgonly cache wake-up") as connection:
                connection.execute(f"LISTEN {CHANNEL}")
                self._wake_all()  # what was notified before LISTEN went unheard
                self._hand_out(connection)
        except psycopg.Error:
            time.sleep(LAST_LOOK_SECONDS)  # they look by themselves meanwhile; not a connection attempt each
        finally:
            with self._lock:
                self._thread = None

    def _hand_out(self, connection: psycopg.Connection[Any]) -> None:
        needed_at = time.monotonic()
        while not self._stopping and time.monotonic() - needed_at < IDLE_SECONDS:
            for notification in connection.notifies(timeout=0.5, stop_after=1):
                for watch in tuple(self._watches.get(notification.payload, ())):
                    watch.notify()
            if self._watches:
                needed_at = time.monotonic()

    def _wake_all(self) -> None:
        with self._lock:
            watches = [watch for same in self._watches.values() for watch in same]
        for watch in watches:
            watch.notify()


def stop_all() -> None:
    for listener in tuple(_listeners.values()):
        listener.stop()


def _after_fork() -> None:
    """The child has none of the threads, and must not wait for a lock that one of them held."""
    for listener in _listeners.values():
        listener._lock = threading.RLock()  # noqa: SLF001 - same module
    _listeners.clear()
    if _creating.locked():
        _creating.release()


os.register_at_fork(after_in_child=_after_fork)
