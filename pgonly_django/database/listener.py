"""LISTEN: on which alias, and for those who wait for another process one connection of this process for each channel.

The connection exists while one waits here, and 10 s longer. Where LISTEN does not work (PgBouncer in transaction mode)
no wake-up comes, and those who wait look by themselves, less and less often.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from pgonly_django.conf import settings
from pgonly_django.database.connect import check_vendor, connect
from pgonly_django.database.operation import Signal

MONITORING = "pgonly monitoring"
ERROR_ID = "pgonly_django.E012"
IDLE_SECONDS = 10.0
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.05, 1.0

_listeners: dict[tuple[str, str], Listener] = {}  # by alias and channel
_creating = threading.Lock()


# PGONLY["LISTEN_DATABASE"]: the alias whose connections LISTEN, where others reach the database through a pooler in
# transaction mode, on which LISTEN does not work.
def listen_alias(alias: str) -> str:
    """Returns the alias to LISTEN on for the database of `alias`: that of the setting where both have the same NAME,
    else `alias`. Raises ImproperlyConfigured for an alias that DATABASES does not have."""
    direct = settings().listen_database
    if not direct or direct == alias:
        return alias
    if direct not in connections.settings:
        raise ImproperlyConfigured(_unknown(direct))
    return direct if _name(direct) == _name(alias) else alias


def check_listen_database(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:  # noqa: ARG001 - a check's signature
    """The system check E012."""
    try:
        direct = settings().listen_database
    except ImproperlyConfigured:
        return []  # E001 says so
    if not direct:
        return []
    if direct not in connections.settings:
        return [
            checks.Error(
                _unknown(direct), hint="See docs/how-to/connections.md#listen-past-a-pooler.", id=ERROR_ID
            )
        ]
    if found := check_vendor(direct, 'PGONLY["LISTEN_DATABASE"] is', "take it out of PGONLY", ERROR_ID):
        return found
    if any(_name(alias) == _name(direct) for alias in connections.settings if alias != direct):
        return []
    message = (
        f'PGONLY["LISTEN_DATABASE"] is {direct!r}, whose NAME {_name(direct)!r} no other entry of DATABASES has: '
        "nothing would LISTEN there."
    )
    hint = f"Give DATABASES[{direct!r}] the NAME of the database that your other connections reach by the pooler."
    return [checks.Error(message, hint=hint, id=ERROR_ID)]


def _name(alias: str) -> object:
    return connections.settings[alias].get("NAME")


def _unknown(alias: str) -> str:
    known = ", ".join(sorted(connections.settings))
    return f'PGONLY["LISTEN_DATABASE"] must be an alias of DATABASES ({known}), got {alias!r}.'


def payload(key: bytes) -> bytes:
    """Returns the payload that tells that something happened to `key`. Keys may be longer than a payload."""
    return hashlib.sha256(key).hexdigest()[:32].encode()


def listener_for(alias: str, channel: str) -> Listener:
    with _creating:
        return _listeners.setdefault((alias, channel), Listener(alias, channel))


class Watch:
    """Notifications of one payload, from when it was made: none is missed between two waits."""

    def __init__(self, listener: Listener, name: str) -> None:
        self._listener, self._name = listener, name
        self._lock = threading.Lock()
        self._signal: Signal | None = None
        self._missed = False
        self._look_seconds = FIRST_LOOK_SECONDS

    def next(self, at_most: float) -> Signal:
        """Returns the wait for the next notification, or until it is time to look anyway."""
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
    def __init__(self, alias: str, channel: str) -> None:
        self._alias, self._channel = alias, channel
        self._name = f"{channel.replace('_', ' ')} wake-up"  # of the thread and of its connection
        self._lock = threading.RLock()  # the garbage collector may close a watch while this thread has it
        self._watches: dict[str, set[Watch]] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False

    def watch(self, key: bytes) -> Watch:
        """Starts to notice what happens to `key`. Close it afterwards."""
        name = payload(key).decode()
        watch = Watch(self, name)
        with self._lock:
            self._watches.setdefault(name, set()).add(watch)
            if self._thread is None:
                self._stopping = False
                thread = threading.Thread(target=self._listen, name=self._name, daemon=True)
                # Where no thread can be started, those who wait look by themselves.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
        return watch

    def forget(self, name: str, watch: Watch) -> None:
        with self._lock:
            self._watches[name].discard(watch)
            if not self._watches[name]:
                del self._watches[name]

    def stop(self) -> None:
        """Closes the connection within a second or so. The next watch opens another one."""
        self._stopping = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2)

    def _listen(self) -> None:
        try:
            with connect(listen_alias(self._alias), application_name=self._name) as connection:
                connection.execute(f"LISTEN {self._channel}")
                with self._lock:
                    watches = [watch for same in self._watches.values() for watch in same]
                for watch in watches:
                    watch.notify()  # a notification from before LISTEN is lost
                self._receive(connection)
        except psycopg.Error:
            time.sleep(LAST_LOOK_SECONDS)  # not an attempt to connect for each of those who wait
        finally:
            with self._lock:
                self._thread = None

    def _receive(self, connection: psycopg.Connection[Any]) -> None:
        needed_at = time.monotonic()
        while not self._stopping and time.monotonic() - needed_at < IDLE_SECONDS:
            for notification in connection.notifies(timeout=0.5, stop_after=1):
                for watch in tuple(self._watches.get(notification.payload, ())):
                    watch.notify()
            if self._watches:
                needed_at = time.monotonic()


def stop_all() -> None:
    for listener in tuple(_listeners.values()):
        listener.stop()


def _after_fork() -> None:
    """Resets the state of a forked child, which has none of the threads; one of them may have held a lock."""
    for listener in _listeners.values():
        listener._lock = threading.RLock()  # noqa: SLF001 - same module
    _listeners.clear()
    if _creating.locked():
        _creating.release()


os.register_at_fork(after_in_child=_after_fork)


def seconds_until_heard(alias: str, seconds: float) -> float | None:
    """Returns how long a NOTIFY to the database of `alias` takes to the connection on which workers LISTEN; None when
    it has not arrived within `seconds`, as behind a pooler in transaction mode. It opens two connections, beside any
    transaction. Raises psycopg.Error.
    """
    channel = f"pgonly_heard_{secrets.token_hex(8)}"  # no worker wakes up by it
    with (
        connect(listen_alias(alias), application_name=MONITORING) as listening,
        connect(alias, application_name=MONITORING) as telling,
    ):
        listening.execute(f"LISTEN {channel}", prepare=False)
        try:
            began = time.monotonic()
            telling.execute("SELECT pg_notify(%s, '')", [channel], prepare=False)
            for _ in listening.notifies(timeout=seconds, stop_after=1):
                return time.monotonic() - began
            return None
        finally:
            with contextlib.suppress(psycopg.Error):
                listening.execute(f"UNLISTEN {channel}", prepare=False)  # a pooler keeps the connection
