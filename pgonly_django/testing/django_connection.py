"""The worker's statements on the connection that Django has open in this thread: in a TestCase, in its transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connections
from django.db.transaction import TransactionManagementError
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads

from pgonly_django.database import testrun
from pgonly_django.database.connect import OwnConnection
from pgonly_django.exceptions import PgonlyError
from pgonly_django.worker.connection import load_json


class DrainError(PgonlyError):
    """A drain that cannot do what was asked; the message says what to do."""


class DjangoConnection(OwnConnection):
    """psycopg's methods on a connection that Django owns. Never closes it, and prepares nothing on it."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        handlers = raw.pgconn.notice_handler, raw.pgconn.notify_handler
        super().__init__(raw.pgconn)
        raw.pgconn.notice_handler, raw.pgconn.notify_handler = handlers
        self._autocommit = True
        self.prepare_threshold = None
        set_json_loads(load_json, self)

    def __del__(self, _warn: Any = None, /) -> None:
        """No warning of psycopg's: the connection is Django's to close."""

    @contextmanager
    def session_settings(self, *, begins: bool = False) -> Iterator[None]:  # noqa: ARG002 - a worker's signature
        """None of the worker's: they would stay until the test's transaction ends."""
        yield

    @contextmanager
    def pipelined_transaction(self, *, idle_for: str) -> Iterator[Any]:  # noqa: ARG002 - a worker's signature
        """A savepoint in the test's transaction; each statement is sent at once."""
        with self.transaction():
            yield self

    def sync(self) -> None:
        """Nothing waits to be sent."""

    def execute(self, *args: Any, **options: Any) -> psycopg.Cursor[Any]:
        """See psycopg.Connection.execute(). The COMMIT of a pipelined_transaction() is the end of its savepoint."""
        return self.cursor() if args[0] == "COMMIT" else super().execute(*args, **options)


class DjangoDatabase:
    """Stands where a worker has its WorkerConnection: the same calls, on Django's connection."""

    is_direct = False

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def connection(self) -> DjangoConnection:
        """The test may use the database: see databases_of()."""
        wrapper: Any = testrun.testcase_connection(self.alias) or connections[self.alias]
        wrapper.ensure_connection()
        raw: psycopg.Connection[Any] = wrapper.connection
        if raw.info.transaction_status == TransactionStatus.INERROR:
            raise TransactionManagementError(
                f"A statement has failed in the transaction on {self.alias!r} before the drain: PostgreSQL takes no "
                "other one. Put code that may fail into an atomic() block of its own."
            )
        return DjangoConnection(raw)

    def lose(self, error: Exception) -> None:
        raise error
