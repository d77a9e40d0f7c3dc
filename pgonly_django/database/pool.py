"""The connections of the caches of one database in this process: few, made when needed, shared by all threads
and event loops, forgotten after a fork, let go when Django creates or drops a test database.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from typing import Any
from weakref import WeakSet

from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from psycopg.pq.abc import PGresult

from pgonly_django.database import listener, testrun
from pgonly_django.database.connect import connection_params
from pgonly_django.database.connection import Connection, SilentError
from pgonly_django.database.hosts import places
from pgonly_django.database.operation import Operation, Signal
from pgonly_django.database.statement import Statement, Values
from pgonly_django.database.testcase import testcase_connection_for
from pgonly_django.exceptions import CacheUnavailableError, UnansweredError

APPLICATION_NAME = "pgonly cache"
FAIL_FAST_SECONDS = 1.0
SHRUNK_SECONDS = 1.0  # how long a pool does with the connections it has after another one was refused

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
        # All there are, with those being opened. One that nobody refers to any more leaves its place by itself.
        self._connections: WeakSet[Connection] = WeakSet()
        self._forget()

    def _forget(self) -> None:
        """Start without connections; those there were stay their owner's (the parent process's)."""
        for connection in self._connections:
            connection.disown()
        self._connections = WeakSet()
        self._idle: deque[Connection] = deque()
        self._waiting: OrderedDict[Signal, None] = OrderedDict()
        self._served = 0  # how many of those who waited got a connection from somebody who was answered
        self._answered = 0  # calls, since there is this pool
        self._failed_at: float | None = None
        self._room, self._shrunk_until, self._refused = self.size, 0.0, ""
        self._lock = (
            threading.RLock()
        )  # the garbage collector may give a connection back while this thread has it

    def call(
        self, statement: Statement, values: Values, timeout: float, patience: float
    ) -> Operation[PGresult]:
        """One statement on a connection of the pool, or on the test's own inside Django's TestCase.

        The statement may take `timeout` seconds, getting a connection `patience`.
        """
        if testrun.is_on() and (tests_own := testcase_connection_for(self.alias)) is not None:
            return (yield from tests_own.call(statement, values, timeout))
        connection = self._idle_connection() or (yield from self._open_or_wait(patience))
        answered = self._answered
        try:
            result = yield from connection.call(statement, values, timeout)
        except CacheUnavailableError as error:
            # Where others were answered meanwhile, it is this statement alone that waits: for a lock, say.
            is_alone = answered != self._answered and isinstance(error, SilentError)
            if not (is_alone or statement.may_take_long):
                self._failed_at = time.monotonic()
            raise UnansweredError(*error.args) from error
        finally:
            self._give(connection)
        self._answered += 1
        return result

    def _idle_connection(self) -> Connection | None:
        """A connection that nobody uses. None when there is none."""
        if self._failed_at is not None:
            self._refuse_for_a_while()
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if self._is_usable(connection):
                return connection
            self._drop(connection)
        return None

    def _refuse_for_a_while(self) -> None:
        """The second after a failure, calls fail at once instead of each waiting for its own timeout."""
        failed_at = self._failed_at  # another thread may forget it at any moment
        if failed_at is not None and time.monotonic() - failed_at < FAIL_FAST_SECONDS:
            raise CacheUnavailableError("PostgreSQL could not be reached a moment ago; not tried again yet.")
        self._failed_at = None

    def _open_or_wait(self, timeout: float) -> Operation[Connection]:
        give_up_at = time.monotonic() + timeout
        while True:
            remaining = max(give_up_at - time.monotonic(), 0)
            with self._lock:
                connection = self._new_connection()
                if connection is None:
                    signal, served = Signal(remaining), self._served
                    self._waiting[signal] = None
            if connection is None:
                connection = yield from self._wait(signal, timeout, served)
            if connection.is_open or (yield from self._is_connected_now(connection, give_up_at)):
                return connection

    def _is_connected_now(self, connection: Connection, give_up_at: float) -> Operation[bool]:
        """False where PostgreSQL refuses it, but there are others to wait for."""
        try:
            yield from self._connect(connection, max(give_up_at - time.monotonic(), 0))
        except CacheUnavailableError as error:
            if not self._shrink(connection, str(error)):
                self._failed_at = time.monotonic()
                self._give(connection)
                raise
            self._give(connection)
            if time.monotonic() >= give_up_at:
                raise
            return False
        except BaseException:
            self._give(connection)
            raise
        return True

    def _shrink(self, refused: Connection, reason: str) -> bool:
        """Do without `refused` and more like it for a while. False when it would have been the only one."""
        with self._lock:
            others = len(self._connections - {refused})
            if others:
                self._room, self._refused = others, reason
                self._shrunk_until = time.monotonic() + SHRUNK_SECONDS
            return others > 0

    def _new_connection(self) -> Connection | None:
        """The right to open a connection, where there is room for one."""
        if self._shrunk_until and time.monotonic() >= self._shrunk_until:
            self._room, self._shrunk_until, self._refused = self.size, 0.0, ""
        if len(self._connections) >= self._room:
            return None
        connection = Connection()
        self._connections.add(connection)
        return connection

    def _wait(self, signal: Signal, timeout: float, served: int) -> Operation[Connection]:
        self._serve_waiting()  # a connection may have come back before we stood in the queue
        try:
            connection: Connection | None = yield signal
        except BaseException:
            connection = signal.withdraw()
            if connection is not None:
                self._give(connection)
            raise
        finally:
            self._waiting.pop(signal, None)
        if connection is None:
            raise self._exhausted(timeout, nobody_served=served == self._served)
        if not connection.is_open and self._failed_at is not None:
            self._refuse(connection)
        return connection

    def _refuse(self, connection: Connection) -> None:
        """The connection whose place this is was lost: not everybody in the queue finds out for himself."""
        try:
            self._refuse_for_a_while()
        except CacheUnavailableError:
            self._give(connection)
            raise

    def _exhausted(self, timeout: float, *, nobody_served: bool) -> CacheUnavailableError:
        if nobody_served:
            reason = "PostgreSQL did not answer the calls that have them (POOL_SIZE is not the reason)."
        elif self._refused:
            reason = (
                f"There were more calls at a time than they can serve, and more were refused: {self._refused}"
            )
        else:
            reason = "There were more calls at a time than they can serve: raise POOL_SIZE."
        return CacheUnavailableError(
            f"None of the {self._room} cache connections was free within {timeout:g} s. {reason}"
        )

    def _connect(self, connection: Connection, timeout: float) -> Operation[None]:
        name = self._database["NAME"]  # a test run gives the alias another database
        give_up_at = time.monotonic() + timeout
        found = yield from places(connection_params(self.alias, application_name=APPLICATION_NAME), timeout)
        # A slow name server alone is no failure.
        remaining = max(give_up_at - time.monotonic(), timeout / 2)
        yield from connection.connect(found, remaining, self._database["OPTIONS"].get("assume_role"))
        connection.database = name

    def _give(self, connection: Connection) -> None:
        """Take back a connection: to be used again when it waits for a statement, else closed."""
        if connection.database == self._database["NAME"] and connection.is_reusable():
            self._idle.append(connection)
        else:
            self._drop(connection)
        if self._waiting:
            self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Hand idle connections, or the right to open one, to those who wait, first come first served."""
        with self._lock:
            while self._waiting and (offer := self._offer()) is not None:
                signal = next(iter(self._waiting), None)
                if signal is not None and self._waiting.pop(signal, signal) is None and signal.set(offer):
                    self._served += offer.is_open
                elif offer.is_open:
                    self._idle.append(offer)
                else:
                    self._connections.discard(offer)

    def _offer(self) -> Connection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_connection()

    def _drop(self, connection: Connection) -> None:
        connection.close()
        with self._lock:
            self._connections.discard(connection)

    def is_connected(self) -> bool:
        """True when a call would find a connection that nobody uses, and its server has not said goodbye."""
        return any(self._is_usable(connection) for connection in tuple(self._idle))

    def _is_usable(self, connection: Connection) -> bool:
        # A test run gives the alias another database, and in the end the first one back.
        return connection.database == self._database["NAME"] and connection.is_quiet()

    def close_idle(self) -> None:
        """Close the connections nobody uses; the next call opens what it needs."""
        while self._idle:
            self._drop(self._idle.pop())


def _after_fork() -> None:
    global _creating  # noqa: PLW0603 - one per process, and this is another process
    _creating = threading.Lock()
    for pool in _pools.values():
        pool._forget()  # noqa: SLF001 - same module


def _let_go(connection: Any, **_: Any) -> None:
    """Django connects to "no database" when it is about to create, clone or drop one: nobody may be in it."""
    if connection.alias == NO_DB_ALIAS:
        listener.stop_all()
        for pool in tuple(_pools.values()):
            pool.close_idle()


os.register_at_fork(after_in_child=_after_fork)
connection_created.connect(_let_go, dispatch_uid="pgonly_django.database.pool")
