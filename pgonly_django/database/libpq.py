"""Prepares and executes statements on a psycopg connection without a cursor of psycopg.

Its cursors look up adapters, count uses and assemble rows in each call: 45 of the 120 us of a small SELECT, and three
times as much after the caller has slept, when its code has left the CPU's caches.

psycopg reads the results, and waits in slices of Python: where it waits in C, as its cursors do, an exception that
another thread sets (a job's cancellation) arrives only with the answer, after 3 s in a statement of 3 s.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg
from psycopg import errors, generators, pq, waiting

from pgonly_django.database.statement import Params, Statement

Raw = psycopg.Connection[Any]
Results = list[pq.abc.PGresult]
Reading = Generator[Any, Any, Results]

SUCCEEDED = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)

LIBPQ_14 = 140_000  # the first with pipelines
CAN_SEND = pq.version() >= LIBPQ_14
BOTH = 2
SLICE_SECONDS = 0.1
PATIENCE_SECONDS, CANCEL_SECONDS = 1.0, 5.0


def takes_statements(raw: Raw) -> bool:
    """Whether one may be sent now: not before a BEGIN that psycopg has yet to send, and not in a pipeline. Never where
    there is no poll(), as on Windows and under eventlet."""
    if not (CAN_SEND and hasattr(select, "poll")):
        return False
    pgconn = raw.pgconn
    begun = raw.autocommit or pgconn.transaction_status != pq.TransactionStatus.IDLE
    return begun and pgconn.pipeline_status == pq.PipelineStatus.OFF


def prepare(raw: Raw, statement: Statement) -> None:
    """Prepare it for as long as the connection lives. Raises psycopg.Error."""
    _answer(raw, lambda pgconn: pgconn.send_prepare(statement.name, statement.positional, statement.types))


def deallocate(raw: Raw, name: bytes) -> None:
    """Undo prepare(). Raises psycopg.Error, InvalidSqlStatementName where it was not prepared."""
    _answer(raw, lambda pgconn: pgconn.send_query(b"DEALLOCATE " + name))


def execute(raw: Raw, statement: Statement, params: Params, *, binary: bool = False) -> pq.abc.PGresult:
    """The result of a statement that was prepared there. Raises psycopg.Error.

    A signal handler, or another thread, may raise an exception here during the wait. Before it goes on, the result is
    read, or after a second the statement is cancelled: so the next statement gets its own result.
    """
    values = statement.values(params)
    return _answer(
        raw,
        lambda pgconn: pgconn.send_query_prepared(statement.name, values, statement.formats, int(binary)),
    )


def execute_both(
    raw: Raw, first: Statement, params: Params, second: Statement, second_params: Params
) -> tuple[pq.abc.PGresult, bool]:
    """Two prepared statements in one round trip, each in its own transaction; so only outside of transactions. The
    result of the first, and whether the second succeeded.

    Raises the psycopg.Error of the first; the second is executed all the same. For other exceptions see execute().
    """
    values, second_values = first.values(params), second.values(second_params)
    results: Results = []

    def send(pgconn: pq.abc.PGconn) -> None:
        pgconn.enter_pipeline_mode()
        pgconn.send_query_prepared(first.name, values, first.formats)
        pgconn.pipeline_sync()
        pgconn.send_query_prepared(second.name, second_values, second.formats)
        pgconn.pipeline_sync()

    try:
        _answer(raw, send, lambda pgconn: _pipelined(pgconn, results))
    except psycopg.Error:
        if all(result.status != pq.ExecStatus.PIPELINE_SYNC for result in results):
            raise
        # The connection broke after the first was committed.
    answers = [result for result in results if result.status != pq.ExecStatus.PIPELINE_SYNC]
    return _good(answers[0]), len(answers) == BOTH and answers[1].status in SUCCEEDED


def _answer(
    raw: Raw,
    send: Callable[[pq.abc.PGconn], None],
    read: Callable[[pq.abc.PGconn], Reading] = generators.execute,
) -> pq.abc.PGresult:
    pgconn = raw.pgconn
    with raw.lock:
        try:
            send(pgconn)
            # Between two slices an exception that another thread sets arrives.
            results = waiting.wait_poll(read(pgconn), pgconn.socket, SLICE_SECONDS)
        except psycopg.Error:
            raise
        except BaseException:
            _leave_clean(raw)
            raise
    if not results:
        raise psycopg.OperationalError
    return _good(results[-1])


def _good(result: pq.abc.PGresult) -> pq.abc.PGresult:
    if result.status not in SUCCEEDED:
        raise errors.error_from_result(result, encoding="utf-8")
    return result


def _pipelined(pgconn: pq.abc.PGconn, results: Results) -> Reading:
    """Send the rest, add all results to `results`, and leave the pipeline. The first of them."""
    yield from generators.send(pgconn)
    nothing = 0
    while nothing < BOTH:  # comes once where a result was read and its end was not; twice only after the last
        found = yield from generators.fetch_many(pgconn)
        nothing = 0 if found else nothing + 1
        results += found
    pgconn.exit_pipeline_mode()
    return results[:1]


def _leave_clean(raw: Raw) -> None:
    """Read or cancel the statement that an exception has interrupted. Close the connection where that fails."""
    pgconn = raw.pgconn
    in_pipeline = pgconn.pipeline_status != pq.PipelineStatus.OFF
    if pgconn.transaction_status != pq.TransactionStatus.ACTIVE and not in_pipeline:
        return
    try:
        if in_pipeline:
            pgconn.pipeline_sync()  # asks for the answers to what was sent without a mark
        try:
            _read_rest(pgconn, PATIENCE_SECONDS, in_pipeline=in_pipeline)
        except TimeoutError:
            raw.cancel_safe(timeout=CANCEL_SECONDS)
            _read_rest(pgconn, CANCEL_SECONDS, in_pipeline=in_pipeline)
    except (psycopg.Error, TimeoutError):
        raw.close()
    except BaseException:
        raw.close()
        raise


def _read_rest(pgconn: pq.abc.PGconn, seconds: float, *, in_pipeline: bool) -> None:
    reading = _pipelined(pgconn, []) if in_pipeline else generators.execute(pgconn)
    waiting.wait_poll(_within(seconds, reading), pgconn.socket, SLICE_SECONDS)


def _within(seconds: float, reading: Reading) -> Reading:
    """`reading`, which raises TimeoutError where nothing has come by then."""
    deadline, ready = time.monotonic() + seconds, None
    try:
        while True:
            ready = yield reading.send(ready)
            if not ready and time.monotonic() >= deadline:
                raise TimeoutError
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # typeshed has Any there
