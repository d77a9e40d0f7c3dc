"""Hears NOTIFY on the connection that claims."""

import logging
import time
from collections import deque
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import errors
from psycopg.pq import PGnotify

from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.events import emit
from pgonly_django.worker.inbox import wait_for_input

SELF_TEST_SECONDS = 2.0
UNAVAILABLE = "LISTEN does not work here ({why}): looking for jobs by polling instead."
ALL = (
    notify.ready(notify.ANY_QUEUE),
    notify.DUE,
    notify.cancel(notify.ANY_QUEUE),
    notify.SCHEDULES,
    notify.worker(notify.ANY_WORKER),
)


class JobsListener:
    """`listens` says whether LISTEN works now; while that is not known, whether it shall be tried."""

    def __init__(self, alias: str, *, listens: bool) -> None:
        self.alias = alias
        self.listens = self._shall_listen = listens
        self._is_tested = False
        self._heard: deque[str] = deque()

    @property
    def reaches_postgres(self) -> bool:
        """Whether it is known that no pooler stands between, which may swap the connection at its other end."""
        return self.listens and self._is_tested

    def open(self, connection: psycopg.Connection[Any]) -> None:
        """Listen on a new connection; on the first one find out whether that works. Raises psycopg.Error."""
        self.listens = self._shall_listen
        if self.listens:
            connection.pgconn.notify_handler = self._note  # for those that come along with an answer
            connection.execute(f"LISTEN {notify.CHANNEL}")
            if not self._is_tested:
                self._test(connection)
        self._heard.extend(ALL)  # that could have been sent while there was no connection

    def note_cut(self) -> None:
        """The connection is lost, and nothing is heard until another one is open. For one that does nothing else."""
        self.listens = False
        self._heard.extend(ALL)

    def hear(self, connection: psycopg.Connection[Any]) -> list[str]:
        """The payloads that have come since the last call. Does not wait. Raises psycopg.Error."""
        if self.listens:
            connection.pgconn.consume_input()
            while (notification := connection.pgconn.notifies()) is not None:
                self._note(notification)
        return self.pending()

    def pending(self) -> list[str]:
        """What was taken note of, and not yet given to anybody."""
        payloads = list(self._heard)
        self._heard.clear()
        return payloads

    def close(self, connection: psycopg.Connection[Any]) -> list[str]:
        """Hear no more. The payloads of all that was committed before. Raises psycopg.Error."""
        if self.listens:
            connection.execute(
                f"UNLISTEN {notify.CHANNEL}"
            )  # what the server has for us comes before its answer
        return self.hear(connection)

    def _note(self, notification: PGnotify) -> None:
        self._heard.append(notification.extra.decode(errors="replace"))

    def _test(self, connection: psycopg.Connection[Any]) -> None:
        """Send a NOTIFY from another connection: behind a pooler in transaction mode it does not arrive."""
        payload = f"test {uuid4()}"
        with connect(self.alias, application_name="pgonly self-test") as other:
            # A pooler gives its connection to others, prepared statements and all.
            other.prepare_threshold = None
            try:
                notify.send(other, payload)
            except errors.ProgramLimitExceeded as error:  # the queue of the whole server is full
                self._give_up(str(error).strip())
                return
        deadline = time.monotonic() + SELF_TEST_SECONDS
        while payload not in self.hear(connection):
            left = deadline - time.monotonic()
            if left <= 0:
                self._give_up("a pooler in transaction mode?")
                break
            wait_for_input(left, connection.pgconn.socket)
        self._is_tested = True

    def _give_up(self, why: str) -> None:
        self.listens = self._shall_listen = False
        self._is_tested = True
        emit("worker.listen_unavailable", UNAVAILABLE.format(why=why), level=logging.WARNING)
