"""How the doctor reads: in transactions that can change nothing, each statement within a time; and what it says of
what it could not read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connections, transaction
from psycopg import errors

from pgonly_django.conf import schema
from pgonly_django.database.connect import reaches_postgres
from pgonly_django.database.time_limit import is_in_transaction
from pgonly_django.monitoring.doctor.findings import Finding, Level
from pgonly_django.monitoring.doctor.words import identifier
from pgonly_django.tables import TABLES

TIME_LIMIT = timedelta(seconds=3)
# Behind somebody who waits for an exclusive lock of a table every look at it would take all of its time.
LOCK_LIMIT = timedelta(milliseconds=500)
# Until the end of the transaction. Returns what was set before.
LIMIT = """
SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),
    set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)
"""
_MILLISECOND = timedelta(milliseconds=1)
_DENIED = re.compile(r"permission denied for (\w+(?: \w+)??) (\S+)$", re.MULTILINE)
# What servers other than PostgreSQL leave out.
_NOT_HERE = (
    errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction, errors.UndefinedObject,
    errors.FeatureNotSupported,
)  # fmt: skip
MONITOR = "GRANT pg_monitor TO {role};"

logger = logging.getLogger("pgonly_django.doctor")


@contextmanager
def reading(alias: str) -> Iterator[Any]:
    """A cursor in a transaction that can change nothing. A statement that takes longer than TIME_LIMIT, or waits
    longer than LOCK_LIMIT for a lock, is cancelled; also one of the ORM
    inside the block. In a transaction of the caller's it is a savepoint of that.

    Raises django.db.Error.
    """
    is_nested = is_in_transaction(alias)
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        if not is_nested:
            cursor.execute("SET TRANSACTION READ ONLY")
        cursor.execute(LIMIT, [str(int(limit / _MILLISECOND)) for limit in (TIME_LIMIT, LOCK_LIMIT)])
        before = cursor.fetchone()[:2]
        yield cursor
        if is_nested:  # else the settings end with the transaction here
            cursor.execute(LIMIT, before)


def rows(alias: str, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
    """All rows of one statement. See reading()."""
    with reading(alias) as cursor:
        cursor.execute(sql, parameters)
        found: list[Any] = cursor.fetchall()
        return found


def row(alias: str, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """The only row of one statement. See reading()."""
    (found,) = rows(alias, sql, parameters)
    return found


def is_direct(alias: str) -> bool:
    """Whether no pooler stands between Django and the server."""
    with reading(alias):
        return reaches_postgres(connections[alias].connection)


def role_of(alias: str) -> str:
    """The role of this connection, as SQL has it. It is the one that privileges are checked for."""
    return identifier(row(alias, "SELECT current_user::text")[0])


def not_read(alias: str, error: Exception) -> Finding:
    """What to say of a part of the examination that failed. Raises `error` where the database is gone."""
    if not isinstance(error, DatabaseError):
        logger.error("A part of the examination failed", exc_info=error)
        fact = f"A part of the examination failed: {type(error).__name__}: {_line(error)}"
        return Finding(id="D004", level=Level.WARNING, fact=fact, advice="The log has the traceback.")
    if not connections[alias].is_usable():
        raise error
    cause = error.__cause__
    if isinstance(cause, errors.InsufficientPrivilege):
        return Finding(
            id="D001",
            level=Level.INFO,
            fact=f"This role may not look there: {_line(error)}.",
            advice=_grant(role_of(alias), str(cause)),
        )
    if isinstance(cause, errors.QueryCanceled):
        seconds = TIME_LIMIT.total_seconds()
        fact = f"A look took longer than {seconds:g} s and was stopped: {_line(error)}."
        return Finding(
            id="D002", level=Level.INFO, fact=fact, advice="Try again when the server has less to do."
        )
    if isinstance(cause, errors.LockNotAvailable):
        milliseconds = LOCK_LIMIT / _MILLISECOND
        fact = f"A table was locked for longer than {milliseconds:g} ms, and could not be read."
        return Finding(id="D006", level=Level.WARNING, fact=fact, advice="D025 says who has locked it.")
    what = "This server has no answer" if isinstance(cause, _NOT_HERE) else "The server refused a look"
    advice = (
        "If tables are missing, D051 or D052 says so; else this server leaves out what PostgreSQL has there."
    )
    return Finding(id="D003", level=Level.INFO, fact=f"{what}: {_line(error)}.", advice=advice)


def _grant(role: str, message: str) -> str:
    denied = _DENIED.search(message)
    kind, name = denied.groups() if denied else ("", "")
    if kind == "table":
        place = (schema(), name) if schema() and name in TABLES else (name,)
        return f"GRANT SELECT ON {identifier(*place)} TO {role};"
    if kind == "schema":
        return f"GRANT USAGE ON SCHEMA {identifier(name)} TO {role};"
    return MONITOR.format(role=role)


def _line(error: Exception) -> str:
    """Of an error of the server its first line, without a part of the statement."""
    primary = getattr(getattr(error.__cause__, "diag", None), "message_primary", None)
    return " ".join((primary or str(error)).split())[:300].rstrip(".")
