"""The reading of the doctor, in transactions that change nothing, and its findings where it cannot read."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connections, models, router
from psycopg import errors

from pgonly_django.conf import schema
from pgonly_django.database.on_django import all_rows, is_in_transaction, time_limit
from pgonly_django.monitoring.findings import Condition, Finding, Level, identifier
from pgonly_django.tables import TABLES

logger = logging.getLogger("pgonly_django.doctor")

TIME_LIMIT = timedelta(seconds=3)
# While a session waits for an exclusive lock of a table, every look at it would take all of its time.
LOCK_LIMIT = timedelta(milliseconds=500)

Part = Callable[[str], Iterable[Finding]]


@contextmanager
def reading(alias: str) -> Iterator[Any]:
    """Yields a cursor in a transaction that can change nothing. A statement that takes longer than TIME_LIMIT, or waits
    longer than LOCK_LIMIT for a lock, is cancelled; also one of the ORM inside the block. Inside a transaction of the
    caller it is a savepoint. Raises django.db.Error.
    """
    is_nested = is_in_transaction(alias)
    with time_limit(alias, TIME_LIMIT, LOCK_LIMIT), connections[alias].cursor() as cursor:
        if not is_nested:
            cursor.execute("SET TRANSACTION READ ONLY")
        yield cursor


def rows(alias: str, sql: str) -> list[dict[str, Any]]:
    """Returns all rows of one statement, by the names of their columns."""
    with reading(alias) as cursor:
        cursor.execute(sql)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def belongs_to(alias: str, model: type[models.Model]) -> bool:
    """Returns whether the routers let migrations make the model's table in this database."""
    return bool(router.allow_migrate_model(alias, model))


# fmt: off
DENIED = Condition("D001", Level.INFO, "This role may not look there: {error}.", "{_grant}")
TOO_SLOW = Condition(
    "D002", Level.INFO, "A look took longer than {_seconds:g} s and was stopped: {error}.",
    "Try again when the server has less to do.")
NO_ANSWER = Condition(
    "D003", Level.INFO, "The server refused a look: {error}.",
    "If tables are missing, D051 or D052 says so; else this server leaves out what PostgreSQL has there.")
FAILED = Condition(
    "D004", Level.WARNING, "A part of the examination failed: {_kind}: {error}", "The log has the traceback.")
LOCKED = Condition(
    "D006", Level.WARNING, "A table was locked for longer than {_milliseconds:g} ms, and could not be read.",
    "docs/how-to/database_health.md#who-waits-for-a-lock shows who has locked it.")
# fmt: on


def not_read(alias: str, error: Exception) -> Finding:
    """Returns the finding for a part of the examination that failed. Raises `error` where the database does not answer
    any more."""
    primary = getattr(getattr(error.__cause__, "diag", None), "message_primary", None)
    line = " ".join((primary or str(error)).split())[:300].rstrip(".")
    if not isinstance(error, DatabaseError):
        logger.error("A part of the examination failed", exc_info=error)
        return FAILED.finding(error=line, _kind=type(error).__name__)
    if not connections[alias].is_usable():
        raise error
    match error.__cause__:
        case errors.InsufficientPrivilege() as denied:
            return DENIED.finding(error=line, _grant=_grant(alias, str(denied)))
        case errors.QueryCanceled():
            return TOO_SLOW.finding(error=line, _seconds=TIME_LIMIT.total_seconds())
        case errors.LockNotAvailable():
            return LOCKED.finding(_milliseconds=LOCK_LIMIT / timedelta(milliseconds=1))
        case _:
            return NO_ANSWER.finding(error=line)


_DENIED = re.compile(r"permission denied for (\w+(?: \w+)??) (\S+)$", re.MULTILINE)


def _grant(alias: str, message: str) -> str:
    """Returns the GRANT of a right that is missing, to the role that privileges are checked for."""
    ((role,),) = all_rows(alias, "SELECT current_user::text")
    denied = _DENIED.search(message)
    kind, name = denied.groups() if denied else ("", "")
    if kind == "table":
        place = (schema(), name) if schema() and name in TABLES else (name,)
        return f"GRANT SELECT ON {identifier(*place)} TO {identifier(role)};"
    right = f"USAGE ON SCHEMA {identifier(name)}" if kind == "schema" else "pg_monitor"
    return f"GRANT {right} TO {identifier(role)};"
