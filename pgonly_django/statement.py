"""Statements that are sent straight over libpq, on a connection of psycopg's that has them prepared.

psycopg's cursors look up adapters, count uses and assemble rows anew for each call: 45 of the 120 us of a small
SELECT, and three times as much where the caller has slept and its code has left the CPU's caches.
"""

from __future__ import annotations

import itertools
import re
import select
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import errors, pq

Params = dict[str, Any]
Raw = psycopg.Connection[Any]

_numbers = itertools.count(1)
_marks = re.compile(r"%%|%\((\w+)\)s")
_special = re.compile(r'(["\\])')
_GOOD = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_READ, _WRITE = select.POLLIN, select.POLLOUT


class Statement:
    """`sql` with psycopg's `%(name)s`; on a server it may be prepared as `name`, with `$1`, `$2`, ..."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.name = f"pgonly_{next(_numbers)}".encode()
        self._order: list[str] = []
        self.positional = _marks.sub(self._number, sql).encode()

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


def prepare(raw: Raw, statement: Statement) -> None:
    """Prepare it on the server at the other end, to stay. Raises psycopg.Error."""
    _answer(raw, lambda pgconn: pgconn.send_prepare(statement.name, statement.positional))


def execute(raw: Raw, statement: Statement, params: Params, *, binary: bool = False) -> pq.abc.PGresult:
    """The result of a statement that was prepared there. Raises psycopg.Error.

    Waits like psycopg: other threads and signal handlers run meanwhile. When one of those raises, the answer is
    still on its way and the connection is closed.
    """
    values = statement.values(params)
    return _answer(
        raw, lambda pgconn: pgconn.send_query_prepared(statement.name, values, result_format=int(binary))
    )


def takes_statements(raw: Raw) -> bool:
    """Whether one may be sent now: not where psycopg has a BEGIN to send first, nor amid a pipeline."""
    pgconn = raw.pgconn
    begun = raw.autocommit or pgconn.transaction_status != pq.TransactionStatus.IDLE
    return begun and pgconn.pipeline_status == pq.PipelineStatus.OFF


def _answer(raw: Raw, send: Any) -> pq.abc.PGresult:
    pgconn = raw.pgconn
    try:
        send(pgconn)
        poll = select.poll()
        poll.register(pgconn.socket, _READ | _WRITE)
        while pgconn.flush():
            if poll.poll()[0][1] & _READ:
                pgconn.consume_input()
        poll.modify(pgconn.socket, _READ)
        result = None
        while True:
            while pgconn.is_busy():
                poll.poll()
                pgconn.consume_input()
            latest = pgconn.get_result()
            if latest is None:
                break
            result = latest
    except psycopg.Error:
        raise
    except BaseException:
        raw.close()
        raise
    assert result is not None
    if result.status not in _GOOD:
        raise errors.error_from_result(result, encoding="utf-8")
    return result


def _text(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    if isinstance(value, list):
        value = _array(value)
    elif isinstance(value, timedelta):
        value = f"{value.total_seconds()} seconds"
    text = str(value).encode()
    if b"\0" in text:  # libpq would end the text there
        raise psycopg.DataError("PostgreSQL text cannot contain NUL (0x00) bytes")
    return text


def _array(items: list[str] | list[int] | list[datetime]) -> str:
    quoted = (_special.sub(r"\\\1", str(item)) for item in items)
    return "{" + ",".join(f'"{item}"' for item in quoted) + "}"
