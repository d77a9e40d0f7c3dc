"""One statement on Django's own connection, at the price of a prepared one.

Sessions belong to the request's transaction, so they use the request's connection: a login inside an atomic
view rolls back with the view. Django's cursor costs twice a prepared statement (140 against 70 us for a load
on one CPU), so ours runs on the same psycopg connection, beside it. Whoever watches Django's statements
(DEBUG, assertNumQueries, execute_wrapper) gets them through Django's cursor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from django.db import InterfaceError, OperationalError, connections

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

Row = tuple[Any, ...]
Params = dict[str, Any]

# Uses of a statement on one connection before it is prepared there; psycopg's own default.
PREPARE_THRESHOLD = 5
# Per alias: is the server at the other end PostgreSQL itself, not a pooler that swaps connections?
_direct: dict[str, bool] = {}


def run(alias: str, sql: str, params: Params) -> Row | None:
    """The first row, or None. Raises what Django's cursor would raise."""
    connection: DatabaseWrapper = connections[alias]  # type: ignore[assignment] # PostgreSQL: a check says so
    if connection.execute_wrappers or connection.queries_logged:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            row: Row | None = cursor.fetchone()
            return row
    return _run_beside_django(connection, sql, params)


def run_again_if_cut(alias: str, sql: str, params: Params) -> Row | None:
    """As run(), for a statement that only reads: outside a transaction a dead connection is replaced once."""
    try:
        return run(alias, sql, params)
    except (OperationalError, InterfaceError):
        connection = connections[alias]
        if in_transaction(alias) or connection.is_usable():
            raise
        connection.close()
        return run(alias, sql, params)


def in_transaction(alias: str) -> bool:
    """True where a rollback may still undo what was written; a TestCase's own transaction does not count."""
    connection = connections[alias]
    if connection.in_atomic_block:
        return not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks)
    return connection.connection is not None and not connection.get_autocommit()


def _run_beside_django(connection: DatabaseWrapper, sql: str, params: Params) -> Row | None:
    connection.validate_thread_sharing()
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    raw: psycopg.Connection[Row] = connection.connection
    with connection.wrap_database_errors:
        kept, raw.prepare_threshold = raw.prepare_threshold, _threshold(connection.alias, raw)
        try:
            return psycopg.Cursor(raw).execute(sql, params).fetchone()
        finally:
            raw.prepare_threshold = kept


def _threshold(alias: str, raw: psycopg.Connection[Row]) -> int | None:
    """What DATABASES says, else psycopg's default, unless a pooler may swap the connection below."""
    if raw.prepare_threshold is not None or not _reaches_postgres(alias, raw):
        return raw.prepare_threshold
    return PREPARE_THRESHOLD


def _reaches_postgres(alias: str, raw: psycopg.Connection[Row]) -> bool:
    """PgBouncer and its kind announce a process id of their own invention."""
    if alias not in _direct:
        row = raw.execute("SELECT pg_backend_pid()").fetchone()
        _direct[alias] = row is not None and row[0] == raw.info.backend_pid
    return _direct[alias]
