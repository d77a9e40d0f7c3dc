"""One statement on Django's own connection, at the price of a prepared one.

Sessions belong to the request's transaction, so they use the request's connection: a login inside an atomic
view rolls back with the view. What is used often is prepared there and sent straight over libpq: through
psycopg's cursor a load costs 45 of 120 us more, through Django's twice as much. Whoever watches Django's
statements (DEBUG, assertNumQueries, execute_wrapper) gets them through Django's cursor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psycopg
from django.db import InterfaceError, OperationalError, connections
from psycopg import errors, pq

from pgonly_django.sessions.statement import Params, Statement

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

# As psycopg gives it, or in PostgreSQL's text form where the statement went straight over libpq.
Row = tuple[Any, ...]
Raw = psycopg.Connection[Row]

# Uses of a statement on one connection before it is prepared there; psycopg's own default.
PREPARE_THRESHOLD = 5
_PREPARED = -1
# How often each statement was used on a connection of psycopg's, or that it is prepared there.
_uses: WeakKeyDictionary[Raw, dict[Statement, int]] = WeakKeyDictionary()
# Per alias: is the server at the other end PostgreSQL itself, not a pooler that swaps connections?
_direct: dict[str, bool] = {}


def run(alias: str, statement: Statement, params: Params) -> Row | None:
    """The first row, or None. Raises what Django's cursor would raise."""
    connection: DatabaseWrapper = connections[alias]  # type: ignore[assignment] # PostgreSQL: a check says so
    if connection.execute_wrappers or connection.queries_logged:
        with connection.cursor() as cursor:
            cursor.execute(statement.sql, params)
            row: Row | None = cursor.fetchone()
            return row
    return _run_beside_django(connection, statement, params)


def run_again_if_cut(alias: str, statement: Statement, params: Params) -> Row | None:
    """As run(), for a statement that only reads: outside a transaction a dead connection is replaced once."""
    try:
        return run(alias, statement, params)
    except (OperationalError, InterfaceError):
        connection = connections[alias]
        if in_transaction(alias) or connection.is_usable():
            raise
        connection.close()
        return run(alias, statement, params)


def in_transaction(alias: str) -> bool:
    """True where a rollback may still undo what was written; a TestCase's own transaction does not count."""
    connection = connections[alias]
    if connection.in_atomic_block:
        return not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    return connection.connection is not None and not connection.get_autocommit()


def _run_beside_django(connection: DatabaseWrapper, statement: Statement, params: Params) -> Row | None:
    connection.validate_thread_sharing()
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    raw: Raw = connection.connection
    with connection.wrap_database_errors:
        if _is_prepared(connection.alias, raw, statement) and _takes_statements(raw):
            try:
                return _straight(raw.pgconn, statement, params)
            except errors.InvalidSqlStatementName:  # somebody's DISCARD ALL
                del _uses[raw]
                if raw.pgconn.transaction_status == pq.TransactionStatus.INERROR:
                    raise
        return psycopg.Cursor(raw).execute(statement.sql, params, prepare=False).fetchone()


def _is_prepared(alias: str, raw: Raw, statement: Statement) -> bool:
    """Whether it is, be it from now on."""
    uses = _uses.get(raw)
    if uses is None:
        uses = _uses[raw] = {}
    used = uses.get(statement, 0)
    if used == _PREPARED:
        return True
    threshold = _threshold(alias, raw)
    if threshold is None:
        return False
    if used < threshold or not _takes_statements(raw):
        uses[statement] = used + 1
        return False
    _checked(raw.pgconn, raw.pgconn.prepare(statement.name, statement.positional))
    uses[statement] = _PREPARED
    return True


def _takes_statements(raw: Raw) -> bool:
    """Not where psycopg has to send a BEGIN first, nor amid somebody's pipeline."""
    pgconn = raw.pgconn
    begun = raw.autocommit or pgconn.transaction_status != pq.TransactionStatus.IDLE
    return begun and pgconn.pipeline_status == pq.PipelineStatus.OFF


def _straight(pgconn: pq.abc.PGconn, statement: Statement, params: Params) -> Row | None:
    values = statement.values(params)
    try:
        result = pgconn.exec_prepared(statement.name, values)  # type: ignore[arg-type] # its annotation forgets NULL
    except MemoryError:  # what psycopg makes of no result: nothing could be sent
        raise psycopg.OperationalError(pgconn.get_error_message()) from None
    _checked(pgconn, result)
    if not result.ntuples:
        return None
    fields = [result.get_value(0, column) for column in range(result.nfields)]
    return tuple(None if field is None else field.decode() for field in fields)


def _checked(pgconn: pq.abc.PGconn, result: pq.abc.PGresult) -> None:
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        if pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(pgconn.get_error_message())
        raise errors.error_from_result(result, encoding="utf-8")


def _threshold(alias: str, raw: Raw) -> int | None:
    """What DATABASES says, else psycopg's default, unless a pooler may swap the connection below."""
    if raw.pgconn.parameter_status(b"client_encoding") != b"UTF8":
        return None
    if raw.prepare_threshold is not None or not _reaches_postgres(alias, raw):
        return raw.prepare_threshold
    return PREPARE_THRESHOLD


def _reaches_postgres(alias: str, raw: Raw) -> bool:
    """PgBouncer and its kind announce a process id of their own invention."""
    if alias not in _direct:
        row = raw.execute("SELECT pg_backend_pid()").fetchone()
        _direct[alias] = row is not None and row[0] == raw.info.backend_pid
    return _direct[alias]
