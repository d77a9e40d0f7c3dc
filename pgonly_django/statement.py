"""Statements that are sent straight over libpq, on a connection of psycopg's that has them prepared.

psycopg's cursors look up adapters, count uses and assemble rows anew for each call: 45 of the 120 us of a small
SELECT, and three times as much where the caller has slept and its code has left the CPU's caches.
"""

from __future__ import annotations

import hashlib
import re
import select
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import errors, pq

Params = dict[str, Any]
Raw = psycopg.Connection[Any]

_marks = re.compile(r"%%|%\((\w+)\)s")
_special = re.compile(r'(["\\])')
_GOOD = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)

LIBPQ_14 = 140_000  # the first that knows of pipelines
CAN_GO_STRAIGHT = hasattr(select, "poll") and pq.version() >= LIBPQ_14
SLICE_SECONDS = 0.1
PATIENCE_SECONDS, CANCEL_SECONDS = 1.0, 5.0


class Statement:
    """`sql` with psycopg's `%(name)s`; on a server it may be prepared as `name`, with `$1`, `$2`, ...

    The same text has the same name everywhere: what is prepared under it already is this very statement.
    """

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self._order: list[str] = []
        self.positional = _marks.sub(self._number, sql).encode()
        self.name = f"pgonly_{hashlib.sha256(self.positional).hexdigest()[:24]}".encode()

    def _number(self, mark: re.Match[str]) -> str:
        name = mark.group(1)
        if name is None:
            return "%"
        if name not in self._order:
            self._order.append(name)
        return f"${self._order.index(name) + 1}"

    def values(self, params: Params) -> list[bytes | None]:
        """The parameters in the order of `positional`, in PostgreSQL's text form."""
        return [_text(params[name]) for name in self._order]


def takes_statements(raw: Raw) -> bool:
    """Whether one may be sent now: not where psycopg has a BEGIN to send first, nor amid a pipeline."""
    if not CAN_GO_STRAIGHT:
        return False
    pgconn = raw.pgconn
    begun = raw.autocommit or pgconn.transaction_status != pq.TransactionStatus.IDLE
    return begun and pgconn.pipeline_status == pq.PipelineStatus.OFF


def prepare(raw: Raw, statement: Statement) -> None:
    """Prepare it on the server at the other end, to stay. Raises psycopg.Error."""
    _answer(raw, lambda pgconn: pgconn.send_prepare(statement.name, statement.positional))


def deallocate(raw: Raw, name: bytes) -> None:
    """Undo prepare(). Raises psycopg.Error, InvalidSqlStatementName where it was not prepared."""
    _answer(raw, lambda pgconn: pgconn.send_query(b"DEALLOCATE " + name))


def execute(raw: Raw, statement: Statement, params: Params, *, binary: bool = False) -> pq.abc.PGresult:
    """The result of a statement that was prepared there. Raises psycopg.Error.

    Other threads and signal handlers run while it waits. When one of those raises, what is on its way is read, or
    cancelled after a second, before the exception goes on, so that the next statement gets its own answer.
    """
    values = statement.values(params)
    return _answer(
        raw, lambda pgconn: pgconn.send_query_prepared(statement.name, values, result_format=int(binary))
    )


def _answer(raw: Raw, send: Callable[[pq.abc.PGconn], None]) -> pq.abc.PGresult:
    with raw.lock:
        try:
            send(raw.pgconn)
            result = _read(raw.pgconn, seconds=None)
        except psycopg.Error:
            raise
        except BaseException:
            _leave_clean(raw)
            raise
    if result is None or result.status not in _GOOD:
        raise errors.error_from_result(result, encoding="utf-8") if result else psycopg.OperationalError
    return result


def _read(pgconn: pq.abc.PGconn, seconds: float | None) -> pq.abc.PGresult | None:
    """Send what is left to send, and read the last result. Raises TimeoutError after `seconds`."""
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
    deadline = None if seconds is None else time.monotonic() + seconds
    while pgconn.flush():
        if _wait(poll, deadline) & select.POLLIN:
            pgconn.consume_input()
    poll.modify(pgconn.socket, select.POLLIN)
    result = None
    while True:
        while pgconn.is_busy():
            _wait(poll, deadline)
            pgconn.consume_input()
        latest = pgconn.get_result()
        if latest is None:
            break
        result = latest
    if pgconn.notify_handler is not None:
        while (notify := pgconn.notifies()) is not None:
            pgconn.notify_handler(notify)
    return result


def _wait(poll: select.poll, deadline: float | None) -> int:
    """For the socket, in slices: an exception set from another thread arrives between two of them."""
    while not (ready := poll.poll(SLICE_SECONDS * 1000)):
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError
    return ready[0][1]


def _leave_clean(raw: Raw) -> None:
    """Read, or else cancel, what an exception left on its way; a connection that resists is closed."""
    if raw.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
        return
    try:
        try:
            _read(raw.pgconn, PATIENCE_SECONDS)
        except TimeoutError:
            raw.cancel_safe(timeout=CANCEL_SECONDS)
            _read(raw.pgconn, CANCEL_SECONDS)
    except (psycopg.Error, TimeoutError):
        raw.close()
    except BaseException:
        raw.close()
        raise


def _text(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    if isinstance(value, list):
        value = _array(value)
    elif isinstance(value, timedelta):
        value = f"{value.total_seconds()} seconds"
    text = _exact(value).encode()
    if b"\0" in text:  # libpq would end the text there
        raise psycopg.DataError("PostgreSQL text cannot contain NUL (0x00) bytes")
    return text


def _array(items: list[str] | list[int] | list[datetime]) -> str:
    quoted = (_special.sub(r"\\\1", _exact(item)) for item in items)
    return "{" + ",".join(f'"{item}"' for item in quoted) + "}"


def _exact(value: Any) -> str:
    """The value itself of what is a str by birth: an enum's member calls itself otherwise."""
    return str.__str__(value) if isinstance(value, str) else str(value)
