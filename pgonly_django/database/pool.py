"""The connections that one user (the cache) has to one database in this process: few, opened when needed, shared by
all threads and event loops, left to the parent after a fork, closed after a minute without a call, and when Django
creates or drops a test database.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from psycopg.pq.abc import PGresult

from pgonly_django.database import listener, testrun
from pgonly_django.database.connect import connection_params
from pgonly_django.database.connection import Connection, EndedError, SilentError
from pgonly_django.database.hosts import conninfos
from pgonly_django.database.operation import Operation, Signal, arun, run
from pgonly_django.database.statement import Statement, Values
from pgonly_django.database.testcase import Advice, testcase_connection_for
from pgonly_django.exceptions import DatabaseCallError, DatabaseUnansweredError, DatabaseUnavailableError

T = TypeVar("T")
FAIL_FAST_SECONDS = 1.0
ATTEMPTS = 3  # of a call whose connection is lost: those that wait for the next call may be lost as well
IDLE_SECONDS = 60.0  # after which an unused connection is closed: others need its place among max_connections
SHRUNK_SECONDS = 1.0  # how long a pool does with the connections it has after another one was refused


@dataclass(frozen=True)
class PoolUser:
    """The room that has the connections of a pool."""

    name: str  # in errors; the application_name is "pgonly <name>"
    size_option: str  # what to raise where the connections are too few
    # What its callers get for a DatabaseCallError: any, where PostgreSQL was not reached, where it did not answer.
    errors: tuple[type[Exception], type[Exception], type[Exception]]
    advice: Advice  # to a test that may not use them
    lock_timeout: str = "0"  # that a statement waits for a lock; "0": as long as it may take

    def error_for(self, error: DatabaseCallError) -> Exception:
        failed, unavailable, unanswered = self.errors
        if isinstance(error, DatabaseUnansweredError):
            return unanswered(*error.args)
        return (unavailable if isinstance(error, DatabaseUnavailableError) else failed)(*error.args)

    def may_be_done(self, error: BaseException) -> bool:
        """Returns whether PostgreSQL may have done a call that ended with this error: cut off, or not answered."""
        failed, _, unanswered = self.errors
        return isinstance(error, unanswered) or not isinstance(error, (failed, testrun.Refusal))


_pools: dict[tuple[str, int, PoolUser], Pool] = {}
_creating = threading.Lock()
_closer: threading.Thread | None = None


def pool_for(alias: str, size: int, user: PoolUser) -> Pool:
    """Returns this process's pool for the database `alias`, which holds at most `size` connections."""
    key = alias, size, user
    with _creating:
        if key not in _pools:
            _pools[key] = Pool(*key)
        return _pools[key]


class Pool:
    def __init__(self, alias: str, size: int, user: PoolUser) -> None:
        self.alias, self.size, self.user = alias, size, user
        self._database = connections.settings[alias]
        # All there are, with those being opened. A connection without a reference leaves its place by itself.
        self._connections: WeakSet[Connection] = WeakSet()
        # Called before the last connection is closed as unused. True: something began that needs one.
        self.before_rest: list[Callable[[], bool]] = []
        self._forget()

    def _forget(self) -> None:
        """Starts without connections: in a forked child those are the parent's."""
        for connection in self._connections:
            connection.disown()
        self._connections = WeakSet()
        self._idle: deque[Connection] = deque()
        self._waiting: OrderedDict[Signal, None] = OrderedDict()
        self._served = 0  # how many calls that waited got a connection from one that was answered
        self._answered = 0  # calls, since there is this pool
        self._failed_at: float | None = None
        self._room, self._shrunk_until, self._refused = self.size, 0.0, ""
        # Reentrant: the garbage collector may give a connection back in this thread while it holds the lock.
        self._lock = threading.RLock()

    def call(
        self, statement: Statement, values: Values, timeout: float, patience: float
    ) -> Operation[PGresult]:
        """Sends one statement on a connection of the pool, or on the test's own inside Django's TestCase. The statement
        may take `timeout` seconds, getting a connection `patience`. If its connection is lost, it is sent again if it
        only reads, or if PostgreSQL says that it has not done it. Raises what the user makes of a DatabaseCallError.
        """
        attempts_left = ATTEMPTS
        try:
            if testrun.is_on():
                tests_own = testcase_connection_for(self.alias, self.user.advice)
                if tests_own is not None:
                    return (yield from tests_own.call(statement, values, timeout))
            while True:
                connection = self._idle_connection() or (yield from self._open_or_wait(patience))
                answered = self._answered
                try:
                    result = yield from connection.call(statement, values, timeout)
                    break
                except DatabaseUnavailableError as error:
                    attempts_left -= 1
                    if statement.may_take_long:
                        pass  # it may wait for something, and a call that ends its connection may mean the statement
                    elif isinstance(error, SilentError):
                        # Where other calls were answered since, only this statement waits: for a lock, say.
                        if answered == self._answered:
                            self._failed_at = time.monotonic()
                    elif attempts_left and (statement.only_reads or isinstance(error, EndedError)):
                        continue
                    raise DatabaseUnansweredError(*error.args) from error
                finally:
                    self._give(connection)
        except DatabaseCallError as error:
            raise self.user.error_for(error) from error.__cause__
        self._answered += 1
        return result

    async def arun(self, operation: Operation[T]) -> T:
        """Does operation.arun(), but in a TestCase in the thread that has the test's transaction, as the ORM does."""
        if testrun.is_on() and testrun.testcase_connection(self.alias) is None:
            tests_own = await sync_to_async(testcase_connection_for)(self.alias, self.user.advice)
            if tests_own is not None:
                return await sync_to_async(run)(operation)
        return await arun(operation)

    def _idle_connection(self) -> Connection | None:
        """Returns a free connection; None when there is none."""
        if self._failed_at is not None:
            self._refuse_for_a_while()
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took it
                break
            if self._is_usable(connection):
                return connection
            self._drop(connection)
        return None

    def _refuse_for_a_while(self) -> None:
        """Makes calls fail at once in the second after a failure, instead of each waiting for its own timeout."""
        failed_at = self._failed_at  # another thread may forget it at any moment
        if failed_at is not None and time.monotonic() - failed_at < FAIL_FAST_SECONDS:
            raise DatabaseUnavailableError(
                "PostgreSQL could not be reached a moment ago; not tried again yet."
            )
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
        """Connects. Returns False where PostgreSQL refuses it, but there are others to wait for."""
        try:
            yield from self._connect(connection, max(give_up_at - time.monotonic(), 0))
        except DatabaseUnavailableError as error:
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
        """Does without `refused` and its like for a while. Returns False when it would have been the only one."""
        with self._lock:
            others = len(self._connections - {refused})
            if others:
                self._room, self._refused = others, reason
                self._shrunk_until = time.monotonic() + SHRUNK_SECONDS
            return others > 0

    def _new_connection(self) -> Connection | None:
        """Returns the right to open a connection, where there is room for one."""
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
            raise self._exhausted(timeout, none_served=served == self._served)
        if not connection.is_open and self._failed_at is not None:
            try:  # the connection whose place this is was lost: not each of those who wait tries for itself
                self._refuse_for_a_while()
            except DatabaseUnavailableError:
                self._give(connection)
                raise
        return connection

    def _exhausted(self, timeout: float, *, none_served: bool) -> DatabaseUnavailableError:
        size, reason = self.user.size_option, "There were more calls at a time than they can serve"
        if none_served:
            reason = f"PostgreSQL did not answer the calls that have them ({size} is not the reason)."
        else:
            reason += f", and more were refused: {self._refused}" if self._refused else f": raise {size}."
        return DatabaseUnavailableError(
            f"None of the {self._room} {self.user.name} connections was free within {timeout:g} s. {reason}"
        )

    def _connect(self, connection: Connection, timeout: float) -> Operation[None]:
        name = self._database["NAME"]  # a test run gives the alias another database
        give_up_at = time.monotonic() + timeout
        params = connection_params(self.alias, application_name=f"pgonly {self.user.name}")
        found = yield from conninfos(params, timeout)
        # A slow name server alone is no failure.
        remaining = max(give_up_at - time.monotonic(), timeout / 2)
        role = self._database["OPTIONS"].get("assume_role")
        yield from connection.connect(found, remaining, role, self.user.lock_timeout)
        connection.database = name
        _start_closer()

    def _give(self, connection: Connection) -> None:
        """Takes back a connection: to be used again when it waits for a statement, else closed."""
        if connection.database == self._database["NAME"] and connection.is_reusable():
            self._idle.append(connection)
        else:
            self._drop(connection)
        if self._waiting:
            self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Hands idle connections, or the right to open one, to those who wait, first come first served."""
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
        """Returns whether a call would find a free connection that the server has not ended."""
        return any(self._is_usable(connection) for connection in tuple(self._idle))

    def _is_usable(self, connection: Connection) -> bool:
        # A test run gives the alias another database, and in the end the first one back.
        return connection.database == self._database["NAME"] and connection.is_quiet()

    def close_unused(self) -> None:
        """Closes the free connections that no call has used for IDLE_SECONDS; the last of them after `before_rest`."""
        since = time.monotonic() - IDLE_SECONDS
        with contextlib.suppress(IndexError):  # another thread took the last one
            while self._idle[0].used_at < since:  # the longest unused is the first
                if len(self._idle) == 1 and sum(begin() for begin in self.before_rest):
                    break
                self._drop(self._idle.popleft())
        self._serve_waiting()

    def close_idle(self) -> None:
        """Closes the free connections. The next call opens what it needs."""
        while self._idle:
            self._drop(self._idle.pop())


def _start_closer() -> None:
    """Starts a thread that closes unused connections, four times in IDLE_SECONDS, until none is left."""
    global _closer  # noqa: PLW0603 - one per process
    with _creating, contextlib.suppress(RuntimeError):  # the interpreter is ending and starts no threads
        if _closer is None or not _closer.is_alive():
            thread = threading.Thread(target=_close_unused, name="pgonly idle connections", daemon=True)
            thread.start()
            _closer = thread


def _close_unused() -> None:
    global _closer  # noqa: PLW0603 - one per process
    while True:
        time.sleep(IDLE_SECONDS / 4)
        for pool in tuple(_pools.values()):
            pool.close_unused()
        with _creating:
            if not any(pool._connections for pool in _pools.values()):  # noqa: SLF001 - same module
                _closer = None
                return


def close_all_idle() -> None:
    for pool in tuple(_pools.values()):
        pool.close_idle()


def _after_fork() -> None:
    global _creating, _closer
    _creating, _closer = threading.Lock(), None
    for pool in _pools.values():
        pool._forget()  # noqa: SLF001 - same module


def _let_go(connection: Any, **_: Any) -> None:
    """Closes the connections when Django connects to "no database", which it does before it creates, clones or drops
    one: that has to be unused then."""
    if connection.alias == NO_DB_ALIAS:
        listener.stop_all()
        close_all_idle()


os.register_at_fork(after_in_child=_after_fork)
connection_created.connect(_let_go, dispatch_uid="pgonly_django.database.pool")
