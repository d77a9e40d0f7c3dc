"""psycopg connections of this package, beside Django's: in autocommit, with prepared statements.

Django's connection takes part in the caller's transaction and prepares nothing, which the worker does not want. For
statements that belong to the caller's transaction see on_django.py.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import psycopg
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from psycopg import IsolationLevel, errors
from psycopg.pq import TransactionStatus

from pgonly_django.compat import knows_pipelines
from pgonly_django.database import testrun
from pgonly_django.database.statement import Params, Statement

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

# The settings of PostgreSQL on every connection of ours, whatever OPTIONS, the role or the database say.
SETTINGS = {
    # The project has set these for its own statements. They would cancel ours, end our connections, or have two
    # claims fail for each other.
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "30s",
    "default_transaction_isolation": "read committed",
    # A prepared statement keeps the plan it got while its table was small: read all of it. When ten thousand rows
    # come within a minute, sooner than autovacuum looks, a claim takes 6 and a cached get 170 times as long.
    "enable_seqscan": "off",
    # A plan that has no index to use looks expensive then, and would be compiled.
    "jit": "off",
    # What is sent again and again is planned once: left to itself the server plans each claim of a few jobs once
    # more, 773 instead of 529 us.
    "plan_cache_mode": "force_generic_plan",
}

# A name that this server does not know is left out, and so is a check for gone clients that is set already.
# A pooler, whose connections others use too, announces a process id that it made up: there nothing is set, and no row
# comes back.
SET = Statement("""
SELECT set_config(name, wanted, false) FROM unnest(%(names)s::text[], %(values)s::text[]) AS w(name, wanted)
WHERE current_setting(name, true) IS NOT NULL AND pg_backend_pid() = coalesce(%(pid)s::int, pg_backend_pid())
AND (name <> 'client_connection_check_interval' OR current_setting(name, true) = '0')
""")

OUR_NAME = "pgonly "  # how the application_name of a connection of ours begins
# Options of Django's that psycopg's connect() does not know, and those we set ourselves.
_NOT_OURS = ("context", "cursor_factory", "prepare_threshold")
# In seconds; tcp_user_timeout in ms: keepalives say nothing while sent data is unanswered.
NOTICE_DEAD_PEERS = {
    "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000,
}  # fmt: skip


def parameters(pid: int | None, **more: str) -> Params:
    """Returns the parameters of SET, for SETTINGS and `more`. Without the announced process id, it sets them anyway."""
    wanted = SETTINGS | more
    return {"names": list(wanted), "values": list(wanted.values()), "pid": pid}


def connection_params(alias: str, *, application_name: str) -> dict[str, Any]:
    """Returns keyword arguments for psycopg.connect() that reach the database of `DATABASES[alias]`. A dead peer is
    noticed within about 30 s (TCP keepalives) unless OPTIONS say otherwise. Raises ImproperlyConfigured when the alias
    is not PostgreSQL.
    """
    wrapper = cast("DatabaseWrapper", connections[alias])
    if wrapper.vendor != "postgresql":
        raise ImproperlyConfigured(
            f"pgonly_django needs PostgreSQL, but DATABASES[{alias!r}] is {wrapper.vendor}."
        )
    params: dict[str, Any] = dict(wrapper.get_connection_params())
    for name in _NOT_OURS:
        params.pop(name, None)
    if params.get("application_name", OUR_NAME).startswith(OUR_NAME):
        params["application_name"] = application_name
    params.setdefault("connect_timeout", 10)
    return {**NOTICE_DEAD_PEERS, **params}


def check_vendor(alias: str, kept: str, instead: str, error_id: str) -> list[checks.CheckMessage]:
    """Returns a check's error when the alias is not PostgreSQL. `kept` begins its text: what is kept there."""
    vendor = connections[alias].vendor
    if vendor == "postgresql":
        return []
    remedy = f'Make DATABASES[{alias!r}] a PostgreSQL database (ENGINE "django.db.backends.postgresql")'
    message = f"{kept} {alias!r}, which is {vendor}."
    return [checks.Error(message, hint=f"{remedy}, or {instead}.", id=error_id)]


# Errors of a statement that may succeed when it is sent again, on the same connection: the database is there.
TRY_AGAIN = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.QueryCanceled,
)

SET_LOCAL = "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', %(wait)s, true)"
SET_LOCAL_IDLE = """
SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', %(idle)s, true),
    set_config('lock_timeout', coalesce(%(wait)s::text, current_setting('lock_timeout')), true)
"""

PREPARE_AFTER = 5  # uses on one connection; psycopg's own default


class OneSendPipeline(psycopg.Pipeline):
    """A pipeline that sends its statements together.

    psycopg sends each statement of a pipeline by itself, and the Sync after them last. A process that is stopped
    between two of these sends leaves its backend waiting for the rest, inside a transaction that no timeout of
    PostgreSQL 14 to 16 ends: it counts as active, not as idle in a transaction. Here statements are sent at each sync()
    and at the end of the block, together with their Sync, in one send while they are shorter than 64 KB, which libpq
    keeps. Answers come no earlier."""

    def _communicate_gen(self) -> Generator[Any, Any, None]:
        # Private to psycopg, and called after each statement and after each Sync.
        if not self.command_queue or self.command_queue[-1] != self.pgconn.pipeline_sync:
            return
        while self.command_queue:
            self.command_queue.popleft()()  # into libpq's buffer; the Sync sends it
        yield from super()._communicate_gen()


@contextmanager
def one_send_pipeline(connection: psycopg.Connection[Any]) -> Iterator[psycopg.Pipeline]:
    """Works as psycopg's Connection.pipeline(), which takes its place with a psycopg whose private methods may differ.
    Not within another pipeline. Raises psycopg.Error."""
    if not knows_pipelines():
        with connection.pipeline() as pipeline:
            yield pipeline
        return
    connection._pipeline = OneSendPipeline(connection)  # noqa: SLF001 - as Connection.pipeline() does, with another class
    try:
        with connection._pipeline as pipeline:  # noqa: SLF001 - likewise
            yield pipeline
    finally:
        connection._pipeline = None  # noqa: SLF001 - likewise


class OwnConnection(psycopg.Connection[Any]):
    """A connection of ours in autocommit. After apply_session_settings() no setting of the project, its role or its
    database decides how long the statements may take and what they see."""

    # Set in each transaction: a connection that a pooler hands out is used by others too.
    _lock_wait: str | None = None
    _has_begun = False

    def apply_session_settings(self, *, lock_wait: str, is_direct: bool = False) -> bool:
        """Sets that no statement waits longer than `lock_wait` for a lock, and that none is cancelled for its length.
        Returns True where PostgreSQL itself is at the other end: there statements may be prepared. Returns False behind
        a pooler, where each transaction sets what it needs and nothing is prepared. Raises psycopg.Error.
        """
        pid = None if is_direct else self.info.backend_pid
        if self.execute(SET.sql, parameters(pid, lock_timeout=lock_wait), prepare=False).fetchall():
            self._lock_wait = None
            self.prepare_threshold = PREPARE_AFTER
            return True
        self._lock_wait, self.prepare_threshold = lock_wait, None
        self.isolation_level = IsolationLevel.READ_COMMITTED
        return False

    @contextmanager
    def session_settings(self) -> Iterator[None]:
        """Stands around statements that are sent together. A single execute() does it itself."""
        if self._has_begun or self._lock_wait is None:
            yield
            return
        self._has_begun = True
        try:
            with self.transaction():
                super().execute(SET_LOCAL, {"wait": self._lock_wait})
                yield
        finally:
            self._has_begun = False

    @contextmanager
    def pipelined_transaction(self, *, idle_for: str) -> Iterator[psycopg.Pipeline]:
        """Begins a transaction, which the caller commits by its last statements. What is executed is sent at each
        `sync()` of the pipeline, and at its end, in one piece. The server ends the transaction where the caller stands
        still for `idle_for`. Raises psycopg.Error."""
        self._has_begun = True
        try:
            with one_send_pipeline(self) as pipeline:
                super().execute("BEGIN ISOLATION LEVEL READ COMMITTED", prepare=False)
                wait = {"wait": self._lock_wait, "idle": idle_for}
                super().execute(SET_LOCAL_IDLE, wait, prepare=False)
                yield pipeline
        finally:
            self._has_begun = False
            if self.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                # Not by execute(), which would have the server forget all that is prepared.
                self.pgconn.exec_(b"ROLLBACK")

    def execute(self, *args: Any, **options: Any) -> psycopg.Cursor[Any]:
        """See psycopg.Connection.execute()."""
        if self._lock_wait is None:
            return super().execute(*args, **options)
        with self.session_settings():
            return super().execute(*args, **options)


def reaches_postgres(connection: psycopg.Connection[Any]) -> bool:
    """Returns whether no pooler stands between: a pooler announces a process id of its own. Raises psycopg.Error."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is not None and row[0] == connection.info.backend_pid


NOT_IN_TESTS = "A worker, like the cache, has connections beside Django's, and they keep to the same rule."


OPENED: WeakSet[OwnConnection] = WeakSet()  # in this process; a child that is forked must not use them


def connect(alias: str, *, application_name: str) -> OwnConnection:
    """Returns a new autocommit connection that belongs to the caller, who closes it.

    In a test that may not use the database it raises what Django raises there.
    """
    if testrun.is_on():
        testrun.refuse_real_database(alias, NOT_IN_TESTS)
    connection = OwnConnection.connect(
        **connection_params(alias, application_name=application_name), autocommit=True
    )
    OPENED.add(connection)
    role = connections[alias].settings_dict["OPTIONS"].get("assume_role")
    if role:
        try:
            connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
        except BaseException:
            connection.close()
            raise
    return connection
