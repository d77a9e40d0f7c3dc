"""One connection of a pool, straight over libpq.

psycopg's cursors cost more than a small SELECT itself (35 of 145 us measured). Here a call sends the prepared
statement, waits for the socket and reads the result. It yields its waits (operation.py), so one text serves threads
and event loops, and no connection belongs to a loop.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Any

from psycopg import errors, pq
from psycopg.sql import Identifier

from pgonly_django.database.connect import SET, parameters
from pgonly_django.database.libpq import SUCCEEDED
from pgonly_django.database.operation import READ, WRITE, Operation, new_poll
from pgonly_django.database.statement import Statement, Values
from pgonly_django.exceptions import DatabaseCallError, DatabaseUnavailableError

BYTES_PER_SECOND = 16 * 1024 * 1024  # a large value adds its transfer at this rate to the time allowed
SEND_BUFFER = 4 * 1024 * 1024  # bytes; the kernel gives as much of it as it may (Linux: net.core.wmem_max)

_ALREADY_PREPARED, _UNKNOWN_STATEMENT, _NO_TABLE = b"42P05", b"26000", b"42P01"
# PostgreSQL ends this connection only: by pg_terminate_backend(), in a shutdown, or since it was idle for too long.
_ENDED = b"57P01", b"57P05"
# Where PostgreSQL says "cached plan must not change result type", in whatever language.
_OUTDATED = b"0A000", b"RevalidateCachedQuery"

# The server ends the statement of a client that gave up, even if that waits for a lock. Windows refuses the setting.
NOTICE_GONE_CLIENTS = {"client_connection_check_interval": "1s"}

# After a large statement glibc may give the server's memory back to the kernel, and get it again page by page for the
# next one: up to 720 page faults, a third of what 100 values of 10 KB cost the server. glibc keeps twice as much as the
# largest block that was freed so far: with this statement, which takes 1 to 5 ms, 8 MB.
KEEP_MEMORY = b"SELECT octet_length(repeat(repeat('x', 4000), 1000))"
LARGE_BYTES = 256 * 1024  # bytes of parameters

NOWHERE = object()  # equals no NAME


class SilentError(DatabaseUnavailableError):
    """Raised when no answer came within the time allowed."""


class EndedError(DatabaseUnavailableError):
    """Raised when PostgreSQL has ended the connection before the statement, which may be sent again."""


class Connection:
    """One statement at a time. It is itself what its operations wait for.

    Until connect() it is the right to open a connection. As long as the object exists, its place in the pool is taken.
    """

    __slots__ = (
        "__weakref__", "_deadline", "_events", "_known", "_poll", "_timeout",
        "database", "is_open", "pgconn", "prepares",
    )  # fmt: skip

    def __init__(self, pgconn: pq.abc.PGconn | None = None, timeout: float = 0) -> None:
        self.database: object = NOWHERE  # the NAME it was opened for
        self.is_open = False
        if pgconn is not None:
            self._adopt(pgconn, timeout)

    def _adopt(self, pgconn: pq.abc.PGconn, timeout: float) -> None:
        self.pgconn, self.is_open = pgconn, True
        self.prepares = True
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._known: set[bytes] = set()
        self._watch(READ)

    def is_quiet(self) -> bool:
        """Returns whether nothing came without a question: False when the server ends the connection, or the stream has
        ended."""
        return not self._poll.poll(0)

    @property
    def used_at(self) -> float:
        """The time of time.monotonic() when it was last sent something, or sent an answer."""
        return self._deadline - self._timeout

    def is_reusable(self) -> bool:
        """Returns whether the connection is between statements, not left in the middle of one."""
        return self.pgconn.transaction_status == pq.TransactionStatus.IDLE

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.pgconn.finish()

    def disown(self) -> None:
        """Neither uses nor ends the connection, which is the parent's. Called after a fork, in the child."""
        self.is_open, self.database = False, NOWHERE

    def call(self, statement: Statement, values: Values, timeout: float) -> Operation[pq.abc.PGresult]:
        """Returns the result of one statement, in binary. Raises DatabaseCallError as PostgreSQL says."""
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        tried = False
        try:
            if self.prepares and statement.name not in self._known:
                yield from self._prepare(statement)
            if statement.may_be_large and self.prepares and _size(values) > LARGE_BYTES:
                yield from self._keep_memory()
            while True:
                if self._send(statement, values):
                    yield from self._send_rest(values)
                result = yield from self._answer()
                if (
                    result.status in SUCCEEDED
                    or tried
                    or not (yield from self._may_repeat(statement, result))
                ):
                    break
                tried = True
        except TimeoutError:  # of a signal handler: where PostgreSQL is silent it is a SilentError
            raise
        except (errors.Error, OSError) as error:
            raise _broken(error) from error
        raise_for(result)
        return result

    def _keep_memory(self) -> Operation[None]:
        if KEEP_MEMORY not in self._known:
            yield from self._ask(KEEP_MEMORY)
            self._known.add(KEEP_MEMORY)

    def _may_repeat(self, statement: Statement, failed: pq.abc.PGresult) -> Operation[bool]:
        """Returns whether the statement failed only because of what was prepared, which this repairs."""
        if _state(failed) == _UNKNOWN_STATEMENT:
            self.prepares = False  # a pooler between us gives every statement another server
        elif (_state(failed), failed.error_field(pq.DiagnosticField.SOURCE_FUNCTION)) == _OUTDATED:
            self._known.discard(statement.name)  # a migration has changed what the statement returns
            yield from self._ask(b"DEALLOCATE " + statement.name)
            yield from self._prepare(statement)
        else:
            return False
        return True

    def connect(
        self, conninfos: Sequence[bytes], timeout: float, role: str | None, lock_timeout: str = "0"
    ) -> Operation[None]:
        """Connects to the first host (hosts.py) that accepts. Each gets its share of `timeout` seconds."""
        give_up_at, reasons = time.monotonic() + timeout, []
        for number, conninfo in enumerate(conninfos):
            share = max(give_up_at - time.monotonic(), 0) / (len(conninfos) - number)
            try:
                yield from self._connect_to(conninfo, share, role, lock_timeout)
            except DatabaseUnavailableError as error:
                self.close()
                reasons.append(str(error))
            else:
                return
        raise DatabaseUnavailableError("\n".join(dict.fromkeys(reasons)))

    def _connect_to(
        self, conninfo: bytes, timeout: float, role: str | None, lock_timeout: str
    ) -> Operation[None]:
        pgconn = pq.PGconn.connect_start(conninfo)
        if pgconn.status == pq.ConnStatus.BAD:
            raise _unreachable(pgconn)
        self._adopt(pgconn, timeout)
        yield from self._establish()
        yield from self.apply_session_settings(lock_timeout)
        if role:
            yield from self._ask(b"SET ROLE " + Identifier(role).as_bytes(None))

    def _establish(self) -> Operation[None]:
        """Takes the steps of connecting. The socket may change between them."""
        while (status := self.pgconn.connect_poll()) != pq.PollingStatus.OK:
            if status == pq.PollingStatus.FAILED:
                raise _unreachable(self.pgconn)
            self._watch(READ if status == pq.PollingStatus.READING else WRITE)
            yield self
        self._watch(READ)
        self.pgconn.nonblocking = 1

    def _ask(
        self, sql: bytes, statement: Statement | None = None, values: Values | None = None
    ) -> Operation[pq.abc.PGresult]:
        types, formats = (statement.types, statement.formats) if statement else ([], [])
        try:
            self.pgconn.send_query_params(sql, values or [], types, formats)
            result = yield from self._answer()
        except TimeoutError:  # of a signal handler: where PostgreSQL is silent it is a SilentError
            raise
        except (errors.Error, OSError) as error:
            raise _broken(error) from error
        raise_for(result)
        return result

    def apply_session_settings(self, lock_timeout: str) -> Operation[None]:
        """Sets nothing where a pooler is between, so nothing is prepared either: a plan could read a whole table."""
        try:
            self.prepares = yield from self._set(lock_timeout=lock_timeout, **NOTICE_GONE_CLIENTS)
        except DatabaseUnavailableError:
            raise
        except DatabaseCallError:
            self.prepares = yield from self._set(lock_timeout=lock_timeout)

    def _set(self, **more: str) -> Operation[bool]:
        values = SET.values(parameters(self.pgconn.backend_pid, **more))
        result = yield from self._ask(SET.positional, SET, values)
        return result.ntuples > 0

    def _send(self, statement: Statement, values: Values) -> int:
        """Returns a number other than 0 when there is something left to send."""
        if self.prepares:
            self.pgconn.send_query_prepared(statement.name, values, statement.formats, 1)
        else:
            self.pgconn.send_query_params(statement.positional, values, statement.types, statement.formats, 1)
        return self.pgconn.flush()

    def _prepare(self, statement: Statement) -> Operation[None]:
        self.pgconn.send_prepare(statement.name, statement.positional, statement.types)
        self.pgconn.flush()
        result = yield from self._answer()
        if _state(result) != _ALREADY_PREPARED:
            raise_for(result)
        self._known.add(statement.name)

    def _send_rest(self, values: Values) -> Operation[None]:
        """Sends what did not fit into the socket. Whenever a part goes out, the time begins again."""
        size = _size(values)
        if size > SEND_BUFFER and self.pgconn.host.startswith(b"/"):
            self._enlarge_send_buffer()
        self._watch(READ | WRITE)
        while self.pgconn.flush():
            self._deadline = time.monotonic() + self._timeout
            yield self
            self.pgconn.consume_input()
        self._watch(READ)
        self._deadline = time.monotonic() + self._timeout + size / BYTES_PER_SECOND

    def _enlarge_send_buffer(self) -> None:
        """Enlarges the buffer of a Unix socket. Each time some of it is sent, libpq moves all that is left: a large
        buffer lets more be sent at a time. TCP's buffer grows by itself, as long as it is not set.
        """
        with socket.fromfd(self.pgconn.socket, socket.AF_UNIX, socket.SOCK_STREAM) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def _answer(self) -> Operation[pq.abc.PGresult]:
        """Reads until PostgreSQL is ready for the next statement. Whenever bytes come, the time begins again.
        psycopg.generators.execute() does the same in C, except for the waiting: with it a cached get took 14 % longer,
        a set 8 %, a get of 10 KB 7 %, a get_many of 100 3 %.
        """
        pgconn, before, result = self.pgconn, None, None
        try:
            while True:
                while pgconn.is_busy():
                    yield self
                    pgconn.consume_input()
                    self._deadline = max(self._deadline, time.monotonic() + self._timeout)
                latest = pgconn.get_result()
                if latest is None:
                    assert result is not None
                    return result
                before, result = result, latest
        except errors.OperationalError as error:
            # PostgreSQL says "complete" before it commits a statement: if it did not, nothing was committed.
            if before is None and result is not None and _state(result) in _ENDED:
                raise EndedError(f"The connection was ended: {result.get_error_message()}") from error
            raise

    # As a Wait (operation.py): until the socket is readable, or writable where there is more to send.

    def block(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0 or not self._poll.poll(remaining * 1000):
            raise self._timed_out()

    async def ready(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        descriptor, wants_write = self.pgconn.socket, self._events & WRITE
        timer = loop.call_later(self._deadline - time.monotonic(), _resolve, future, False)
        loop.add_reader(descriptor, _resolve, future, True)
        if wants_write:
            loop.add_writer(descriptor, _resolve, future, True)
        try:
            if not await future:
                raise self._timed_out()
        finally:
            timer.cancel()
            # Otherwise its task is garbage, of a closed loop or in a forked child, and only gives the connection back.
            if self.is_open and not loop.is_closed():
                loop.remove_reader(descriptor)
                if wants_write:
                    loop.remove_writer(descriptor)

    def _watch(self, events: int) -> None:
        self._events = events
        self._poll = new_poll()
        self._poll.register(self.pgconn.socket, events)

    def _timed_out(self) -> SilentError:
        return SilentError(f"PostgreSQL did not answer within {self._timeout:.2g} s.")


def _unreachable(pgconn: pq.abc.PGconn) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(f"PostgreSQL could not be reached: {pgconn.get_error_message()}")


def _broken(error: Exception) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(f"The connection broke: {error}")


def raise_for(result: pq.abc.PGresult) -> None:
    """Raises DatabaseCallError for a result that is an error, with the psycopg error of its SQLSTATE as cause."""
    if result.status in SUCCEEDED:
        return
    state, message = _state(result), result.get_error_message()
    if state == _NO_TABLE:
        message = f"{message} Run manage.py migrate for this database."
    try:
        cause: Exception = errors.lookup(state.decode())(message)
    except KeyError:
        cause = errors.DatabaseError(message)
    raise DatabaseCallError(message) from cause


def _size(values: Values) -> int:
    return sum(len(value) for value in values if value is not None)


def _state(result: pq.abc.PGresult) -> bytes:
    return result.error_field(pq.DiagnosticField.SQLSTATE) or b""


def _resolve(future: asyncio.Future[bool], answer: Any) -> None:
    if not future.done():
        future.set_result(answer)
