"""Prepares and executes statements on a psycopg connection without a cursor of psycopg.

Its cursors look up adapters, count uses and assemble rows in each call: 45 of the 120 us of a small SELECT, and three
times as much after the caller has slept, when its code has left the CPU's caches.

The results are read here, not by psycopg.generators and psycopg.waiting. Those are as fast (7.0 to 7.6 instead of 7.3
to 8.0 us of CPU for a prepared SELECT). But they wait in C, where an exception that another thread sets (a job's
cancellation) arrives only with the answer: after 3 s in a statement of 3 s, and not within 0.1 s.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
from psycopg import errors, pq

from pgonly_django.database.operation import READ, WRITE, Poll, new_poll
from pgonly_django.database.statement import Params, Statement

Raw = psycopg.Connection[Any]
# Reads the results that a connection sends, within this many seconds.
Reader = Callable[[pq.abc.PGconn, float | None], pq.abc.PGresult | None]

SUCCEEDED = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
IDLE, PIPELINE_OFF = int(pq.TransactionStatus.IDLE), int(pq.PipelineStatus.OFF)

LIBPQ_14 = 140_000  # the first with pipelines
CAN_SEND = hasattr(select, "poll") and pq.version() >= LIBPQ_14
BOTH = 2
SLICE_SECONDS = 0.1
PATIENCE_SECONDS, CANCEL_SECONDS = 1.0, 5.0


def takes_statements(raw: Raw) -> bool:
    """Returns whether a statement may be sent: not before a BEGIN that psycopg has yet to send, nor in a pipeline."""
    if not CAN_SEND:
        return False
    pgconn = raw.pgconn
    begun = raw.autocommit or pgconn.transaction_status != IDLE
    return begun and pgconn.pipeline_status == PIPELINE_OFF


def prepare(raw: Raw, statement: Statement) -> None:
    """Prepares it for as long as the connection lives. Raises psycopg.Error."""
    _answer(
        raw, partial(raw.pgconn.send_prepare, statement.name, statement.positional, statement.types), _read
    )


def deallocate(raw: Raw, name: bytes) -> None:
    """Undoes prepare(). Raises psycopg.Error, and InvalidSqlStatementName where it was not prepared."""
    _answer(raw, partial(raw.pgconn.send_query, b"DEALLOCATE " + name), _read)


def execute(raw: Raw, statement: Statement, params: Params, *, binary: bool = False) -> pq.abc.PGresult:
    """Returns the result of a statement that was prepared there. Raises psycopg.Error.

    A signal handler, or another thread, may raise an exception here during the wait. Before the exception leaves, the
    result is read, or after a second the statement is cancelled, so that the next statement gets its own result.
    """
    values = statement.values(params)
    send = partial(raw.pgconn.send_query_prepared, statement.name, values, statement.formats, int(binary))
    return _answer(raw, send, _read)


def execute_both(
    raw: Raw, first: Statement, params: Params, second: Statement, second_params: Params
) -> tuple[pq.abc.PGresult, bool]:
    """Executes two prepared statements in one round trip, each in its own transaction, so only outside of transactions.
    Returns the result of the first, and whether the second succeeded. Raises the psycopg.Error of the first; the second
    is executed all the same. For other exceptions see execute().
    """
    values, second_values = first.values(params), second.values(second_params)
    results: list[pq.abc.PGresult] = []
    pgconn = raw.pgconn

    def send() -> None:
        pgconn.enter_pipeline_mode()
        pgconn.send_query_prepared(first.name, values, first.formats)
        pgconn.pipeline_sync()
        pgconn.send_query_prepared(second.name, second_values, second.formats)
        pgconn.pipeline_sync()

    try:
        _answer(raw, send, partial(_read_pipeline, results))
    except psycopg.Error:
        if all(result.status != pq.ExecStatus.PIPELINE_SYNC for result in results):
            raise
        # The connection broke after the first was committed.
    answers = [result for result in results if result.status != pq.ExecStatus.PIPELINE_SYNC]
    return good(answers[0]), len(answers) == BOTH and answers[1].status in SUCCEEDED


@dataclass(slots=True)
class Sent:
    """Statements that were sent together, and what has come back so far."""

    results: list[pq.abc.PGresult] = field(default_factory=list)
    is_answered: bool = False
    began: float = field(default_factory=time.monotonic)


def send_together(raw: Raw, statements: Sequence[tuple[Statement, Params, bool]]) -> Sent:
    """Sends prepared statements as one transaction, in one piece, and waits for nothing. The third of each triple says
    whether its rows come in binary. Raises psycopg.Error.

    Until take_answers() has read all answers the connection takes nothing but another send_together().
    """
    pgconn = raw.pgconn
    parameters = [statement.values(params) for statement, params, _ in statements]
    sent = Sent()
    with raw.lock:
        pgconn.enter_pipeline_mode()  # does nothing within one
        for (statement, _, binary), values in zip(statements, parameters, strict=True):
            pgconn.send_query_prepared(statement.name, values, statement.formats, int(binary))
        pgconn.pipeline_sync()
        _flushed(pgconn, None)
    return sent


def take_answers(raw: Raw, sent: Sequence[Sent]) -> None:
    """Reads what has arrived. `sent` are all that are not answered yet, the oldest first. A statement that failed is
    among the results. Raises psycopg.Error when the connection is lost."""
    pgconn = raw.pgconn
    with raw.lock:
        pgconn.consume_input()
        for each in sent:
            while not (each.is_answered or pgconn.is_busy()):
                result = pgconn.get_result()
                if result is None:
                    if pgconn.status == pq.ConnStatus.BAD:
                        raise psycopg.OperationalError(pgconn.get_error_message())
                elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                    each.is_answered = True
                else:
                    each.results.append(result)
        if sent[-1].is_answered:
            pgconn.exit_pipeline_mode()
        _hand_on_notifies(pgconn)


def _answer(raw: Raw, send: Callable[[], None], read: Reader) -> pq.abc.PGresult:
    with raw.lock:
        try:
            send()
            result = read(raw.pgconn, None)
        except psycopg.Error:
            raise
        except BaseException:
            _leave_clean(raw, read)
            raise
    return result if result is not None and result.status in SUCCEEDED else good(result)


def good(result: pq.abc.PGresult | None) -> pq.abc.PGresult:
    """Returns the result of a statement that succeeded. Raises the psycopg.Error of one that failed."""
    if result is None:
        raise psycopg.OperationalError
    if result.status not in SUCCEEDED:
        raise errors.error_from_result(result, encoding="utf-8")
    return result


def _read(pgconn: pq.abc.PGconn, seconds: float | None) -> pq.abc.PGresult | None:
    """Sends the rest of the statement, and reads its last result. Raises TimeoutError after `seconds`."""
    poll, deadline = _flushed(pgconn, seconds)
    result = None
    while (latest := _next(pgconn, poll, deadline) if pgconn.is_busy() else pgconn.get_result()) is not None:
        result = latest
    _hand_on_notifies(pgconn)
    return result


def _read_pipeline(
    results: list[pq.abc.PGresult], pgconn: pq.abc.PGconn, seconds: float | None
) -> pq.abc.PGresult | None:
    """See _read(). Adds all results to `results`, and leaves the pipeline."""
    poll, deadline = _flushed(pgconn, seconds)
    nothing = 0
    while nothing < BOTH:  # None comes once after each statement; twice in a row only after the last
        latest = _next(pgconn, poll, deadline)
        if latest is None:
            nothing += 1
        else:
            nothing = 0
            results.append(latest)
        if pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(pgconn.get_error_message())
    pgconn.exit_pipeline_mode()
    _hand_on_notifies(pgconn)
    return results[0] if results else None


def _flushed(pgconn: pq.abc.PGconn, seconds: float | None) -> tuple[Poll, float | None]:
    """Sends everything. Returns what to wait with for the answer, and until when."""
    poll = new_poll()
    deadline = None if seconds is None else time.monotonic() + seconds
    while pgconn.flush():
        poll.register(pgconn.socket, READ | WRITE)
        if _wait(poll, deadline) & READ:
            pgconn.consume_input()
    poll.register(pgconn.socket, READ)
    return poll, deadline


def _next(pgconn: pq.abc.PGconn, poll: Poll, deadline: float | None) -> pq.abc.PGresult | None:
    while pgconn.is_busy():
        _wait(poll, deadline)
        pgconn.consume_input()
    return pgconn.get_result()


def _hand_on_notifies(pgconn: pq.abc.PGconn) -> None:
    if pgconn.notify_handler is not None:
        while (notify := pgconn.notifies()) is not None:
            pgconn.notify_handler(notify)


def _wait(poll: Poll, deadline: float | None) -> int:
    """Waits for the socket, in slices: an exception that another thread sets arrives between two of them."""
    while not (ready := poll.poll(SLICE_SECONDS * 1000)):
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError
    return ready[0][1]


def _leave_clean(raw: Raw, read: Reader) -> None:
    """Reads or cancels the statement that an exception has interrupted. Closes the connection where that fails."""
    pgconn = raw.pgconn
    in_pipeline = pgconn.pipeline_status != pq.PipelineStatus.OFF
    if pgconn.transaction_status != pq.TransactionStatus.ACTIVE and not in_pipeline:
        return
    try:
        if in_pipeline:
            read = partial(_read_pipeline, [])
            pgconn.pipeline_sync()  # asks for the answers to what was sent without a mark
        try:
            read(pgconn, PATIENCE_SECONDS)
        except TimeoutError:
            raw.cancel_safe(timeout=CANCEL_SECONDS)
            read(pgconn, CANCEL_SECONDS)
    except (psycopg.Error, TimeoutError):
        raw.close()
    except BaseException:
        raw.close()
        raise
