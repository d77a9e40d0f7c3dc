"""Runs statements on Django's own connection, in the caller's transaction: enqueueing, sessions, NOTIFY. It also limits
the time of statements there.

A statement that is used often on a connection is prepared there and sent by libpq.py, which costs a third of what
Django's cursor costs. Django itself prepares nothing, because of poolers.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from django.conf import settings
from django.db import Error, IntegrityError, OperationalError, connections, transaction
from django.db.backends.postgresql.base import DatabaseWrapper
from psycopg import errors
from psycopg.pq import TransactionStatus

from pgonly_django.database.connect import reaches_postgres
from pgonly_django.database.libpq import (
    Raw,
    deallocate,
    execute,
    execute_both,
    prepare,
    takes_statements,
)
from pgonly_django.database.statement import Params, Statement
from pgonly_django.exceptions import ManualCommitError

# As psycopg returns it; in PostgreSQL's text form where libpq.py sent the statement.
Row = tuple[Any, ...]
T = TypeVar("T")

# Uses of a statement on one connection before it is prepared there; psycopg's own default.
PREPARE_THRESHOLD = 5
# Statements that are counted per connection: some are made for one call only.
KEPT_AT_MOST = 200
# A prepared statement keeps its plan: one made for a small table would read all of a table that has grown.
PLAN_SECONDS = 15.0

# The server no longer has the statement (DISCARD ALL), or its columns have changed (a migration).
_OUTDATED = (errors.InvalidSqlStatementName, errors.FeatureNotSupported)


@dataclass(slots=True)
class _Use:
    count: int = 0
    prepared_at: float | None = None
    is_outdated: bool = False


# By the names of the statements.
_uses: WeakKeyDictionary[Raw, dict[bytes, _Use]] = WeakKeyDictionary()
# Classes of execute wrappers that need not see these statements: a worker has one on each connection of its jobs.
PASSED_BY: set[type] = set()
# Per alias: is the server at the other end PostgreSQL itself, not a pooler that swaps connections?
_direct: dict[str, bool] = {}


@dataclass(slots=True)
class FollowUp:
    """A statement to send after another one where that takes no further round trip."""

    statement: Statement
    params: Params
    is_done: bool = False
    made_at: float = field(default_factory=time.monotonic)


def first_row(
    alias: str, statement: Statement, params: Params, follow_up: FollowUp | None = None
) -> Row | None:
    """Runs `statement` on Django's connection, in the caller's transaction, and returns the first row, or None.

    Outside transactions the `follow_up` may be executed after it, in its own transaction, also where `statement` fails;
    `follow_up.is_done` says whether it succeeded. Where Django's statements are watched (DEBUG, assertNumQueries,
    execute_wrapper) or forbidden (SimpleTestCase), or the database backend makes cursors in its own way, Django's
    cursor executes it. Raises what that cursor would raise.
    """
    return first_row_on(connections[alias], statement, params, follow_up)


def all_rows(alias: str, statement: str, params: Any = None) -> list[Row]:
    """Returns all rows of `statement`, by Django's own cursor."""
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, params)
        rows: list[Row] = cursor.fetchall()
        return rows


def first_row_on(
    connection: Any, statement: Statement, params: Params, follow_up: FollowUp | None = None
) -> Row | None:
    """See first_row(). Most methods that Django's cursor calls first do nothing: attributes say so for less."""
    kind: Any = type(connection)  # the stubs call it unhashable
    is_wrapped = not PASSED_BY.issuperset(map(type, connection.execute_wrappers))
    is_watched = is_wrapped or connection.force_debug_cursor or settings.DEBUG
    has_other = "cursor" in vars(connection) and _has_other_cursor(connection, kind)
    if is_watched or has_other or _makes_its_own_cursors(kind):
        with connection.cursor() as cursor:
            cursor.execute(statement.sql, params)
            row: Row | None = cursor.fetchone()
            return row
    connection.validate_thread_sharing()
    if connection.health_check_enabled and not connection.health_check_done:
        connection.close_if_health_check_failed()
    connection.ensure_connection()  # and refuses to be called from a coroutine
    if connection.needs_rollback:
        connection.validate_no_broken_transaction()
    try:
        return _first_row(connection.alias, connection.connection, statement, params, follow_up)
    except psycopg.Error:
        with connection.wrap_database_errors:
            raise


def _first_row(
    alias: str, raw: Raw, statement: Statement, params: Params, follow_up: FollowUp | None
) -> Row | None:
    if takes_statements(raw) and (use := _prepared(alias, raw, statement)):
        try:
            if follow_up is not None and _is_idle(raw) and _prepared(alias, raw, follow_up.statement):
                result, follow_up.is_done = execute_both(
                    raw, statement, params, follow_up.statement, follow_up.params
                )
            else:
                result = execute(raw, statement, params)
            if not result.ntuples:
                return None
            return tuple(
                [
                    None if (field := result.get_value(0, column)) is None else field.decode()
                    for column in range(result.nfields)
                ]
            )
        except _OUTDATED:
            use.is_outdated = True
            if raw.pgconn.transaction_status == TransactionStatus.INERROR:
                raise
    # A project that lets psycopg prepare (OPTIONS["prepare_threshold"]) has all its statements prepared by it.
    prepares = None if raw.prepare_threshold is not None else False
    return psycopg.Cursor(raw).execute(statement.sql, params, prepare=prepares).fetchone()


def _has_other_cursor(connection: Any, kind: Any) -> bool:
    """Returns whether cursor() was replaced by another method. A SimpleTestCase, which forbids queries in this way,
    leaves the usual one there at its end."""
    cursor = vars(connection).get("cursor")
    return cursor is not None and getattr(cursor, "__func__", None) is not kind.cursor


def require_autocommit(alias: str, what: str) -> None:
    """Raises ManualCommitError where Django does not run its hooks of the commit: AUTOCOMMIT or set_autocommit() is
    False, and there is no atomic(). Sends no statement."""
    require_autocommit_on(connections[alias], what)


def require_autocommit_on(connection: Any, what: str) -> None:
    """See require_autocommit()."""
    is_open = connection.connection is not None  # get_autocommit() would open it
    autocommit = connection.autocommit if is_open else connection.settings_dict["AUTOCOMMIT"]
    if not (connection.in_atomic_block or autocommit):
        raise ManualCommitError(connection.alias, what)


def runs_commit_hooks(connection: Any) -> bool:
    try:
        require_autocommit_on(connection, "")
    except ManualCommitError:
        return False
    return True


@functools.cache
def _makes_its_own_cursors(kind: type) -> bool:
    """Returns whether the backend makes cursors in its own way, as that of django-tenants, which sets the search_path
    of the tenant whenever a cursor is made."""
    methods = ("cursor", "_cursor", "create_cursor")
    return any(getattr(kind, name) is not getattr(DatabaseWrapper, name) for name in methods)


def _prepared(alias: str, raw: Raw, statement: Statement) -> _Use | None:
    """Returns its use where the statement is prepared, if need be by this call; else None."""
    uses = _uses.get(raw)
    if uses is None:
        uses = _uses[raw] = {}
    use = uses.get(statement.name)
    if use is None:
        if not (_may_prepare(alias, raw) and _has_room(uses)):
            return None
        use = uses[statement.name] = _Use()
    if use.prepared_at is not None:
        if not use.is_outdated and time.monotonic() - use.prepared_at < PLAN_SECONDS:
            return use
        if not _is_idle(raw):
            return None if use.is_outdated else use
        # Only outside a transaction: that would be broken where the server no longer has the statement.
        with suppress(errors.InvalidSqlStatementName):
            deallocate(raw, statement.name)
        use.prepared_at, use.is_outdated = None, False
    use.count += 1
    if use.count <= PREPARE_THRESHOLD:
        return None
    _prepare(raw, statement, use)
    return use


def _prepare(raw: Raw, statement: Statement, use: _Use) -> None:
    # Noted first: an exception between the two leaves at worst a name that the server does not know.
    use.prepared_at = time.monotonic()
    try:
        prepare(raw, statement)
    except errors.DuplicatePreparedStatement:
        if raw.pgconn.transaction_status == TransactionStatus.INERROR:
            raise
    except psycopg.Error:
        use.prepared_at = None
        raise


def _has_room(uses: dict[bytes, _Use]) -> bool:
    """Makes room by forgetting what was never prepared."""
    if len(uses) >= KEPT_AT_MOST:
        for name, use in tuple(uses.items()):
            if use.prepared_at is None:
                del uses[name]
    return len(uses) < KEPT_AT_MOST


def _is_idle(raw: Raw) -> bool:
    return raw.pgconn.transaction_status == TransactionStatus.IDLE


def _may_prepare(alias: str, raw: Raw) -> bool:
    """Returns False where psycopg prepares, since it deallocates all after a rollback, and with a pooler."""
    utf8 = raw.pgconn.parameter_status(b"client_encoding") == b"UTF8"
    if not utf8 or raw.prepare_threshold is not None:
        return False
    if alias not in _direct:
        _direct[alias] = reaches_postgres(raw)
    return _direct[alias]


# Until the end of the transaction. Returns what was set before, then what is set now. Without JIT: to compile the plan
# for the sums of the runs can take most of the second that they may take.
LIMIT_STATEMENTS = """
SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('jit'),
    set_config('statement_timeout', %s, true), set_config('lock_timeout', coalesce(%s, current_setting('lock_timeout')),
        true), set_config('jit', %s, true)
"""


@contextmanager
def time_limit(alias: str, limit: timedelta, lock_limit: timedelta | None = None) -> Iterator[None]:
    """A statement inside that takes longer, or waits longer than `lock_limit` for a lock, raises OperationalError (see
    `timed_out`). None is compiled."""
    statement, lock = (
        None if each is None else str(int(each / timedelta(milliseconds=1))) for each in (limit, lock_limit)
    )
    is_nested = is_in_transaction(alias)
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(LIMIT_STATEMENTS, [statement, lock, "off"])
        before = (cursor.fetchone() or ("0", "0", "on"))[:3]
        yield
        if is_nested:  # else the setting ends with the transaction here
            cursor.execute(LIMIT_STATEMENTS, before)


def is_in_transaction(alias: str) -> bool:
    """Returns whether an atomic() would not begin a transaction. Without autocommit the caller has or begins one."""
    connection = connections[alias]
    return connection.in_atomic_block or not connection.get_autocommit()


# Of a call that meets other transactions. A deadlock takes a second each time (deadlock_timeout), in which the caller's
# transaction keeps its other locks.
TRIES, DEADLOCKS_OF_CALLER = 10, 3


def repeat_after_conflict(
    alias: str, call: Callable[[], T], *also: type[psycopg.Error], tries: int = TRIES
) -> T:
    """Calls it, and again where its own transaction met another one: in a deadlock, under REPEATABLE READ, or where the
    error is one of `also`. Inside the caller's transaction it raises, since that is lost, unless only a savepoint of
    the call was: its locks are gone with it. There a deadlock of the third call is raised."""
    for tried in range(1, tries + 1):
        try:
            return call()
        except (OperationalError, IntegrityError) as error:
            if tried == tries or not _may_repeat(alias, error, also, tried):
                raise
    raise AssertionError("unreachable")


def _may_repeat(alias: str, error: Error, also: tuple[type[psycopg.Error], ...], tried: int) -> bool:
    if isinstance(error.__cause__, errors.SerializationFailure):
        return not is_in_transaction(alias)
    is_deadlock = isinstance(error.__cause__, errors.DeadlockDetected)
    if not (is_deadlock or isinstance(error.__cause__, also)):
        return False
    if not is_in_transaction(alias):
        return True
    status = connections[alias].connection.info.transaction_status
    return status != TransactionStatus.INERROR and not (is_deadlock and tried >= DEADLOCKS_OF_CALLER)


def timed_out(error: Error) -> bool:
    return isinstance(error.__cause__, errors.QueryCanceled)


def in_time(alias: str, limit: timedelta, read: Callable[[], T]) -> T | None:
    """Returns what `read` returns; None where one of its statements takes longer than `limit`."""
    try:
        with time_limit(alias, limit):
            return read()
    except OperationalError as error:
        if not timed_out(error):
            raise
        return None
