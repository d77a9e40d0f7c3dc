"""The connections of the caches of one database in this process: few, made when needed, shared by all threads
and event loops, forgotten after a fork, let go when Django creates or drops a test database.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any

from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGresult

from pgonly_django.cache import wakeup
from pgonly_django.cache.borrowed import borrowed
from pgonly_django.cache.drive import Operation, Signal
from pgonly_django.cache.link import Link, Params, connect
from pgonly_django.cache.statement import Prepared
from pgonly_django.exceptions import CacheUnavailableError, UnansweredError
from pgonly_django.postgres import connection_params

APPLICATION_NAME = "pgonly cache"
FAIL_FAST_SECONDS = 1.0
_OPEN_ONE = object()  # the answer to a waiter when a connection was lost: there is room to open one

_pools: dict[tuple[str, int], Pool] = {}
_creating = threading.Lock()


def pool_for(alias: str, size: int) -> Pool:
    """This process's pool for the database `alias`, holding at most `size` connections."""
    pool = _pools.get((alias, size))
    if pool is None:
        with _creating:
            pool = _pools.setdefault((alias, size), Pool(alias, size))
    return pool


class Pool:
    def __init__(self, alias: str, size: int) -> None:
        self.alias, self.size = alias, size
        self._database = connections.settings[alias]
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        """Start without connections; those there were stay their owner's (the parent process's)."""
        self._idle: deque[Link] = deque()
        self._waiting: deque[Signal] = deque()
        self._open = 0
        self._failed_at: float | None = None
        self._lock = threading.Lock()

    def call(
        self, statement: Prepared, params: Params, timeout: float, patience: float
    ) -> Operation[PGresult]:
        """One statement on a connection of the pool, or on the test's own inside Django's TestCase.

        The statement may take `timeout` seconds, getting a connection `patience`.
        """
        tests_own = borrowed(self.alias)
        if tests_own is not None:
            return (yield from tests_own.call(statement, params, timeout))
        link = yield from self._take(patience)
        try:
            result = yield from link.call(statement, params, timeout)
        except CacheUnavailableError as error:
            self._failed_at = time.monotonic()
            raise UnansweredError(*error.args) from error
        finally:
            self._give(link)
        return result

    def _take(self, timeout: float) -> Operation[Link]:
        if self._failed_at is not None:
            self._refuse_for_a_while()
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return (yield from self._open_or_wait(timeout))
            if link.database == self._database["NAME"] and link.is_quiet():
                return link
            self._drop(link)

    def _refuse_for_a_while(self) -> None:
        """The second after a failure, calls fail at once instead of each waiting for its own timeout."""
        assert self._failed_at is not None
        if time.monotonic() - self._failed_at < FAIL_FAST_SECONDS:
            raise CacheUnavailableError("PostgreSQL could not be reached a moment ago; not tried again yet.")
        self._failed_at = None

    def _open_or_wait(self, timeout: float) -> Operation[Link]:
        with self._lock:
            may_open = self._open < self.size
            if may_open:
                self._open += 1
            else:
                signal = Signal(timeout)
                self._waiting.append(signal)
        if may_open:
            return (yield from self._connect(timeout))
        self._serve_waiting()  # a connection may have come back before we stood in the queue
        try:
            link: Link | object | None = yield signal
        except BaseException:
            self._take_back(signal.withdraw())
            raise
        if link is _OPEN_ONE:
            return (yield from self._take(timeout))
        if not isinstance(link, Link):
            raise CacheUnavailableError(
                f"None of the {self.size} cache connections was free within {timeout:g} s. Raise POOL_SIZE."
            )
        return link

    def _take_back(self, answer: object) -> None:
        if isinstance(answer, Link):
            self._give(answer)

    def _connect(self, timeout: float) -> Operation[Link]:
        name = self._database["NAME"]  # a test run gives the alias another database
        try:
            link = yield from connect(
                _conninfo(self.alias), timeout, self._database["OPTIONS"].get("assume_role")
            )
        except BaseException as error:
            with self._lock:
                self._open -= 1
            if isinstance(error, CacheUnavailableError):
                self._failed_at = time.monotonic()
            raise
        link.database = name
        return link

    def _give(self, link: Link) -> None:
        """Take back a connection: to be used again when it waits for a statement, else closed."""
        if link.database == self._database["NAME"] and link.is_reusable():
            self._idle.append(link)
        else:
            self._drop(link)
        if self._waiting:
            self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Hand idle connections, or the right to open one, to those who wait, first come first served."""
        with self._lock:
            while self._waiting and (self._idle or self._open < self.size):
                offer = self._idle.pop() if self._idle else _OPEN_ONE
                taken = self._waiting.popleft().set(offer)
                if not taken and isinstance(offer, Link):
                    self._idle.append(offer)

    def _drop(self, link: Link) -> None:
        link.close()
        with self._lock:
            self._open -= 1

    def close_idle(self) -> None:
        """Close the connections nobody uses; the next call opens what it needs."""
        while self._idle:
            self._drop(self._idle.pop())


def _conninfo(alias: str) -> bytes:
    return make_conninfo(**connection_params(alias, application_name=APPLICATION_NAME)).encode()


def _after_fork() -> None:
    for pool in _pools.values():
        pool._forget()  # noqa: SLF001 - same module


def _let_go(connection: Any, **_: Any) -> None:
    """Django connects to "no database" when it is about to create, clone or drop one: nobody may be in it."""
    if connection.alias == NO_DB_ALIAS:
        wakeup.stop_all()
        for pool in tuple(_pools.values()):
            pool.close_idle()


os.register_at_fork(after_in_child=_after_fork)
connection_created.connect(_let_go, dispatch_uid="pgonly_django.cache.pool")
