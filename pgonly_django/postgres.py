"""Connections of our own beside Django's: prepared statements, autocommit, our own type loaders.

Django's connection joins the caller's transaction and switches prepared statements off; the worker and
the cache need neither. What has to be part of the caller's transaction goes through first_row().
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

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
PREFER_INDEXES = "SELECT set_config('enable_seqscan', 'off', false)"


def prefer_indexes(connection: psycopg.Connection[Any]) -> None:
    """Let no statement of `connection` be planned as a scan of the table where an index will do.

    The setting stays with the server's connection: not for one that a pooler will hand to somebody else.
    """
    connection.execute(PREFER_INDEXES)


_kept = threading.local()


def first_row(alias: str, statement: str, parameters: Sequence[Any]) -> Any:
    """Run `statement` on Django's connection, in the caller's transaction, and return its first row.

    Where nobody looks on (query log, execute_wrappers) psycopg's cursor is used as it is, and kept for the
    next call: a new one behind Django's wrapper looks up its type adapters again and costs 60 of 500 us. It
    prepares the statement on the server (another 40 us) where DATABASES allows that: OPTIONS
    `prepare_threshold`, which Django sets to None for the sake of poolers in transaction mode.
    """
    django = connections[alias]
    if _needs_django(django):
        with django.cursor() as watched:
            watched.execute(statement, parameters)
            return watched.fetchone()
    with django.wrap_database_errors:
        cursor = _kept_cursor(django)
        cursor.execute(statement, parameters)
        return cursor.fetchone()


def _needs_django(django: Any) -> bool:
    """Whether its cursor has more to do than to pass the statement on."""
    return (
        django.queries_logged
        or django.execute_wrappers
        or django.connection is None
        or django.needs_rollback
        or (django.health_check_enabled and not django.health_check_done)
    )


def _kept_cursor(django: Any) -> Any:
    kept = getattr(_kept, django.alias, None)
    if kept is None or kept.connection is not django.connection:
        prepares = django.connection.prepare_threshold is not None
        kept = psycopg.Cursor(django.connection) if prepares else django.create_cursor()
        setattr(_kept, django.alias, kept)
    return kept
