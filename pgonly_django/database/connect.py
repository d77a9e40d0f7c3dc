"""Connections of our own beside Django's: prepared statements, autocommit, our own type loaders.

Django's connection joins the caller's transaction and switches prepared statements off; the worker and
the cache need neither. For what has to be part of the caller's transaction see django_connection.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from psycopg import IsolationLevel, errors

from pgonly_django.database import testrun

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

OURS = "pgonly "  # how the application_name of a connection of ours begins
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
    if params.get("application_name", OURS).startswith(OURS):
        params["application_name"] = application_name
    params.setdefault("connect_timeout", 10)
    return {**NOTICE_DEAD_PEERS, **params}


# Errors of a statement that may succeed when it is sent again, on the same connection: the database is there.
TRY_AGAIN = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.QueryCanceled,
)

# What a database, a role or OPTIONS set for the project's own statements, and what would cancel ours, end our
# connections or have our claims collide. A name that this server does not know yet is left out.
TERMS = {
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "30s",
    "default_transaction_isolation": "read committed",
}
# A prepared statement keeps the plan it got while its table was small: read all of it. When ten thousand rows
# come within a minute, sooner than autovacuum looks, a claim takes 6 and a cached get 170 times as long.
# A plan that has no index to use looks expensive then, and would be compiled. What is sent again and again is
# planned once: left to itself the server plans each claim of a few jobs once more, 773 instead of 529 us.
PLANS = {"enable_seqscan": "off", "jit": "off", "plan_cache_mode": "force_generic_plan"}
SET = """
SELECT set_config(name, wanted, false) FROM pg_settings
JOIN unnest(%(names)s::text[], %(values)s::text[]) AS w(name, wanted) USING (name)
"""
SET_LOCAL = "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', %(wait)s, true)"

PREPARE_AFTER = 5  # uses on one connection; psycopg's own default


class OwnConnection(psycopg.Connection[Any]):
    """A connection of ours in autocommit. After keep_own_terms() no setting of the project's, of its role or
    its database decides how long its statements take and what they see."""

    # To be set in each transaction: what a pooler hands out belongs to others as well.
    _lock_wait: str | None = None
    _has_begun = False

    def keep_own_terms(self, *, lock_wait: str, is_direct: bool = False) -> bool:
        """From now on no statement waits longer than `lock_wait` for a lock, nor is cancelled for its length.

        Whether the server itself is at the other end, for which all is set, and statements may be prepared.
        A pooler gets it with each transaction, and nothing is prepared. Raises psycopg.Error.
        """
        if is_direct or reaches_postgres(self):
            wanted = {**TERMS, **PLANS, "lock_timeout": lock_wait}
            self.execute(SET, {"names": list(wanted), "values": list(wanted.values())}, prepare=False)
            self._lock_wait = None
            self.prepare_threshold = PREPARE_AFTER
            return True
        self._lock_wait, self.prepare_threshold = lock_wait, None
        self.isolation_level = IsolationLevel.READ_COMMITTED
        return False

    @contextmanager
    def own_terms(self) -> Iterator[None]:
        """Around statements that go out together; execute() alone needs it not."""
        if self._lock_wait is None or self._has_begun:
            yield
            return
        self._has_begun = True
        try:
            with self.transaction():
                super().execute(SET_LOCAL, {"wait": self._lock_wait})
                yield
        finally:
            self._has_begun = False

    def execute(self, *args: Any, **options: Any) -> psycopg.Cursor[Any]:
        """See psycopg.Connection.execute()."""
        if self._lock_wait is None:
            return super().execute(*args, **options)
        with self.own_terms():
            return super().execute(*args, **options)


def reaches_postgres(connection: psycopg.Connection[Any]) -> bool:
    """Whether no pooler stands between: those announce a process id of their own invention. Raises psycopg.Error."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is not None and row[0] == connection.info.backend_pid


NOT_IN_TESTS = "A worker, like the cache, has connections beside Django's, and they keep to the same rule."


OPENED: WeakSet[OwnConnection] = WeakSet()  # in this process, for who forks it


def connect(alias: str, *, application_name: str) -> OwnConnection:
    """A new autocommit connection that belongs to the caller, who closes it.

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
        connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
    return connection
