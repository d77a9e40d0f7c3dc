"""Connections of our own beside Django's: prepared statements, autocommit, our own type loaders.

Django's connection joins the caller's transaction and switches prepared statements off; the worker and
the cache need neither. What has to be part of the caller's transaction (enqueueing, sessions) goes through
first_row().
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGresult

from pgonly_django.statement import Params, Raw, Statement, execute, prepare, takes_statements

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

# Options of Django's that psycopg's connect() does not know, and those we set ourselves.
_NOT_OURS = ("context", "cursor_factory", "prepare_threshold")


def connection_params(alias: str, *, application_name: str) -> dict[str, Any]:
    """Keyword arguments for psycopg.connect() that reach the database of `DATABASES[alias]`.

    A dead peer is noticed within about 30 s (TCP keepalives) unless OPTIONS say otherwise.
    Raises ImproperlyConfigured when the alias is not PostgreSQL.
    """
    wrapper = cast("DatabaseWrapper", connections[alias])
    if wrapper.vendor != "postgresql":
        raise ImproperlyConfigured(
            f"pgonly_django needs PostgreSQL, but DATABASES[{alias!r}] is {wrapper.vendor}."
        )
    params: dict[str, Any] = dict(wrapper.get_connection_params())
    for name in _NOT_OURS:
        params.pop(name, None)
    params.setdefault("application_name", application_name)
    params.setdefault("connect_timeout", 10)
    params.setdefault("keepalives_idle", 15)
    params.setdefault("keepalives_interval", 5)
    params.setdefault("keepalives_count", 3)
    params.setdefault("tcp_user_timeout", 30_000)  # ms; keepalives say nothing while sent data is unanswered
    return params


def connect(alias: str, *, application_name: str) -> psycopg.Connection[Any]:
    """A new autocommit connection that belongs to the caller, who closes it."""
    connection = psycopg.connect(
        **connection_params(alias, application_name=application_name), autocommit=True
    )
    role = connections[alias].settings_dict["OPTIONS"].get("assume_role")
    if role:
        connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
    return connection


# A prepared statement keeps the plan it got while its table was small: read all of it. When ten thousand rows
# come within a minute, sooner than autovacuum looks, a claim takes 6 and a cached get 170 times as long.
# A plan that has no index to use looks expensive then, and would be compiled.
PREFER_INDEXES = "SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)"


def prefer_indexes(connection: psycopg.Connection[Any]) -> None:
    """Let no statement of `connection` be planned as a scan of the table where an index will do.

    The setting stays with the server's connection: not for one that a pooler will hand to somebody else.
    """
    connection.execute(PREFER_INDEXES)


# As psycopg gives it, or in PostgreSQL's text form where the statement went straight over libpq.
Row = tuple[Any, ...]

# Uses of a statement on one connection before it is prepared there; psycopg's own default.
PREPARE_THRESHOLD = 5
# Statements known of a connection at a time: some are made up for one call each.
KEPT_AT_MOST = 200
_PREPARED = -1
# How often each statement was used on a connection of Django's, or that it is prepared there.
_uses: WeakKeyDictionary[Raw, dict[Statement, int]] = WeakKeyDictionary()
# Per alias: is the server at the other end PostgreSQL itself, not a pooler that swaps connections?
_direct: dict[str, bool] = {}


def first_row(alias: str, statement: Statement, params: Params) -> Row | None:
    """Run `statement` on Django's connection, in the caller's transaction: the first row, or None.

    What is used often is prepared there and sent straight over libpq, which costs a third of what Django's cursor
    does. Whoever watches Django's statements (DEBUG, assertNumQueries, execute_wrapper) gets them through that
    cursor. Raises what it would raise.
    """
    connection = cast("DatabaseWrapper", connections[alias])
    if connection.execute_wrappers or connection.queries_logged:
        with connection.cursor() as cursor:
            cursor.execute(statement.sql, params)
            row: Row | None = cursor.fetchone()
            return row
    connection.validate_thread_sharing()
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    raw: Raw = connection.connection
    with connection.wrap_database_errors:
        if _is_prepared(alias, raw, statement) and takes_statements(raw):
            try:
                return _first(execute(raw, statement, params))
            except psycopg.errors.InvalidSqlStatementName:  # somebody's DISCARD ALL
                del _uses[raw]
                if raw.pgconn.transaction_status == TransactionStatus.INERROR:
                    raise
        return psycopg.Cursor(raw).execute(statement.sql, params, prepare=False).fetchone()


def _first(result: PGresult) -> Row | None:
    if not result.ntuples:
        return None
    fields = [result.get_value(0, column) for column in range(result.nfields)]
    return tuple(None if field is None else field.decode() for field in fields)


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
    if used >= threshold and takes_statements(raw):
        prepare(raw, statement)
        uses[statement] = _PREPARED
        return True
    if len(uses) >= KEPT_AT_MOST:
        _uses[raw] = uses = {known: count for known, count in uses.items() if count == _PREPARED}
    if len(uses) < KEPT_AT_MOST:
        uses[statement] = used + 1
    return False


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
