"""A connection that is opened when it is needed and, after a loss, opened again after growing pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from pgonly_django.database.connect import TRY_AGAIN, OwnConnection, connect

Answer = TypeVar("Answer")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0


class Reconnecting:
    """A connection for one thread. Times are time.monotonic(). `opened` is called with each new connection and may
    raise psycopg.Error, which counts as a failed try. `lost` is called when the database becomes unavailable and not
    again for each failed try, `back` when a connection is open again.
    """

    def __init__(
        self,
        alias: str,
        *,
        application_name: str,
        lock_wait: str,
        opened: Callable[[OwnConnection], None],
        lost: Callable[[Exception], None],
        back: Callable[[], None],
    ) -> None:
        self.alias = alias
        self.is_away = False  # the last statement, or the last try to connect, found no database
        self.is_direct = False  # no pooler stands between, which may swap the connection at its other end
        self._application_name = application_name
        self._lock_wait = lock_wait
        self._opened, self._lost, self._back = opened, lost, back
        self._connection: OwnConnection | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._opened_at = self._next_try = 0.0
        self._was_open = False

    def connection(self) -> OwnConnection | None:
        """Returns the open connection, or a new one; None while the database is unavailable. Raises what the project's
        own database backend raises, where that keeps it from opening the first one."""
        if self._connection is not None:
            return self._connection
        if time.monotonic() < self._next_try:
            return None
        try:
            self._connection = self._open()
        except Exception as error:
            # A database backend that fetches a password for each connection may raise anything. Where not even the
            # first connection could be opened, that is an error of the settings.
            if not isinstance(error, psycopg.Error) and not self._was_open:
                raise
            self.lose(error)
            return None
        self._was_open = True
        if self.is_away:
            self.is_away = False
            self._back()
        return self._connection

    def _open(self) -> OwnConnection:
        connection = self._connection = connect(self.alias, application_name=self._application_name)
        self._opened_at = time.monotonic()
        self.is_direct = connection.apply_session_settings(lock_wait=self._lock_wait)
        self._opened(connection)
        return connection

    def note_direct(self) -> None:
        """Notes that no pooler stands between. Raises psycopg.Error."""
        if self._connection is not None and not self.is_direct:
            self.is_direct = self._connection.apply_session_settings(
                lock_wait=self._lock_wait, is_direct=True
            )

    def ask(self, question: Callable[[OwnConnection], Answer]) -> Answer | None:
        """Returns `question(connection)`; None when the database is unavailable, or refused (see TRY_AGAIN)."""
        connection = self.connection()
        try:
            return None if connection is None else question(connection)
        except TRY_AGAIN:
            return None
        except psycopg.Error as error:
            self.lose(error)
            return None

    def lose(self, error: Exception) -> None:
        """Closes the connection, on which `error` was raised. The next try comes after a pause, which is twice as long
        as the last one, unless this connection has lasted."""
        now = time.monotonic()
        if self._connection is not None and now - self._opened_at >= LONGEST_PAUSE_SECONDS:
            self._pause_seconds = FIRST_PAUSE_SECONDS
        self.close()
        if not self.is_away:
            self.is_away = True
            self._lost(error)
        self._next_try = now + self._pause_seconds
        self._pause_seconds = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    @property
    def open_socket(self) -> int | None:
        connection = self._connection
        return None if connection is None or connection.closed else connection.pgconn.socket

    def start_anew(self) -> None:
        """Closes the connection. The next one is opened without a pause, as if none had been lost."""
        self.close()
        self.is_away, self._next_try, self._pause_seconds = False, 0.0, FIRST_PAUSE_SECONDS

    @property
    def pause_seconds(self) -> float:
        """The number of seconds until the next try to connect."""
        return max(self._next_try - time.monotonic(), 0.0)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
