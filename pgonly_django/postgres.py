"""Connections of our own beside Django's: prepared statements, autocommit, our own type loaders.

Django's connection joins the caller's transaction and switches prepared statements off; the worker and
the cache need neither. For what has to be part of the caller's transaction see django_connection.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from pgonly_django import testrun

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

# Options of Django's that psycopg's connect() does not know, and those we set ourselves.
_NOT_OURS = ("context", "cursor_factory", "prepare_threshold")
# In seconds; tcp_user_timeout in ms: keepalives say nothing while sent data is unanswered.
NOTICE_DEAD_PEERS = {
    "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000,
}  # fmt: skip


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
    return {**NOTICE_DEAD_PEERS, **params}


NOT_IN_TESTS = "A worker, like the cache, has connections beside Django's, and they keep to the same rule."


def connect(alias: str, *, application_name: str) -> psycopg.Connection[Any]:
    """A new autocommit connection that belongs to the caller, who closes it.

    In a test that may not use the database it raises what Django raises there.
    """
    if testrun.is_on():
        testrun.refuse_real_database(alias, NOT_IN_TESTS)
    connection = psycopg.connect(
        **connection_params(alias, application_name=application_name), autocommit=True
    )
    role = connections[alias].settings_dict["OPTIONS"].get("assume_role")
    if role:
        connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
    return connection


PREPARE_AFTER = 5  # uses on one connection; psycopg's own default

# A prepared statement keeps the plan it got while its table was small: read all of it. When ten thousand rows
# come within a minute, sooner than autovacuum looks, a claim takes 6 and a cached get 170 times as long.
# A plan that has no index to use looks expensive then, and would be compiled.
PREFER_INDEXES = "SELECT set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)"


def prefer_indexes(connection: psycopg.Connection[Any]) -> None:
    """Let no statement of `connection` be planned as a scan of the table where an index will do.

    The setting stays with the server's connection: not for one that a pooler will hand to somebody else.
    """
    connection.execute(PREFER_INDEXES)
