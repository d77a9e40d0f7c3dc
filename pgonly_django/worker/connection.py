"""The main loop's connection, on which claims, ends, promotion and NOTIFY travel. No thread and no second connection
stand between a NOTIFY and the claim that it causes; only with PGONLY["LISTEN_DATABASE"] a second one listens."""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from json.scanner import make_scanner
from selectors import EVENT_READ
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import errors
from psycopg.pq import PGnotify
from psycopg.types.json import set_json_loads

from pgonly_django.database import notify
from pgonly_django.database.connect import OwnConnection, connect
from pgonly_django.database.libpq import Sent, prepare, send_together, take_answers
from pgonly_django.database.listener import listen_alias
from pgonly_django.database.reconnecting import Answer, Reconnecting
from pgonly_django.database.statement import Params, Statement
from pgonly_django.events import emit
from pgonly_django.queue.claim import Unreadable
from pgonly_django.worker.inbox import wait_for

# A row that another transaction has locked must not delay all the others: a statement waits this long at most. Shorter
# than the commit of a heartbeat takes would be too short.
LOCK_WAIT = "50ms"
ANSWER_SLICE_SECONDS = 0.1
SELF_TEST_SECONDS = 2.0

# Without the search for white space around it.
_scan = make_scanner(json.JSONDecoder())  # type: ignore[arg-type] # typeshed only knows the C class


class WorkerConnection(Reconnecting):
    def __init__(self, alias: str, worker_id: UUID, worker_name: str, *, listen: bool = True) -> None:
        super().__init__(
            alias,
            application_name=f"pgonly worker {worker_id} {worker_name}",
            lock_wait=LOCK_WAIT,
            opened=self._prepare,
            lost=self._emit_lost,
            back=lambda: emit("worker.database_back", "PostgreSQL is back."),
        )
        self.listener = JobsListener(alias, listens=listen)
        self.listening: Reconnecting = self  # which connection hears NOTIFY
        if listen and (other := listen_alias(alias)) != alias:
            self.listening = Reconnecting(
                other,
                application_name=f"pgonly listener {worker_id} {worker_name}",
                lock_wait=LOCK_WAIT,
                opened=self.listener.open,
                lost=self._emit_cut,
                back=lambda: None,
            )
        # On the open connection.
        self._prepared: set[Statement] = set()
        self._unanswered: list[Sent] = []
        self._is_asleep = False

    def connection(self) -> OwnConnection | None:
        """See Reconnecting.connection(). None while it sleeps."""
        return None if self._is_asleep else super().connection()

    def ask(self, question: Callable[[OwnConnection], Answer]) -> Answer | None:
        """See Reconnecting.ask(). It waits for the answers of what was sent."""
        self.wait_for_answers()
        return super().ask(question)

    def send(self, connection: OwnConnection, statements: Sequence[tuple[Statement, Params, bool]]) -> Sent:
        """See send_together(), and is_direct. `connection`: the open one. Raises psycopg.Error."""
        for statement, _, _ in statements:
            if statement not in self._prepared:
                self.wait_for_answers()
                prepare(connection, statement)
                self._prepared.add(statement)
        sent = send_together(connection, statements)
        self._unanswered.append(sent)
        return sent

    def read_answers(self) -> bool:
        """Reads what has come. Returns whether answers are still to come."""
        if self._connection is None:
            self._unanswered.clear()
        elif self._unanswered:
            try:
                take_answers(self._connection, self._unanswered)
            except psycopg.Error as error:
                self.lose(error)
            self._unanswered = [sent for sent in self._unanswered if not sent.is_answered]
        return self._connection is not None and bool(self._unanswered)

    def wait_to_read(self, seconds: float) -> None:
        if (socket := self.open_socket) is not None:
            wait_for({socket: EVENT_READ}, seconds)

    def wait_for_answers(self) -> None:
        """Waits until all have come. Before that the connection takes nothing but send()."""
        while self.read_answers():
            self.wait_to_read(ANSWER_SLICE_SECONDS)

    def sleep(self) -> None:
        """Closes what is open, and opens nothing before wake()."""
        self._is_asleep = True
        self.start_all_anew()

    def wake(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            self.start_all_anew()

    def start_all_anew(self) -> None:
        """See Reconnecting.start_anew(). The next connection listens, and all that could have been sent is told."""
        self.start_anew()
        self.listening.start_anew()

    def heard(self) -> list[str]:
        """The payloads since the last call. After a time without connection these are all that could have been sent."""
        if self._is_asleep:
            return []
        return Reconnecting.ask(self.listening, self.listener.hear) or self.listener.pending()

    @property
    def socket(self) -> int | None:
        """The socket that is readable when there is something to hear; None when there is nothing to wait for."""
        return self.listening.open_socket if self.listener.listens else None

    def close_all(self) -> None:
        self.close()
        self.listening.close()

    def _prepare(self, connection: OwnConnection) -> None:
        self._prepared.clear()
        self._unanswered.clear()
        set_json_loads(load_json, connection)
        if self.listening is self:
            self.listener.open(connection)
            if self.listener.reaches_postgres:
                self.note_direct()

    def _emit_cut(self, error: Exception) -> None:
        self.listener.note_cut()
        message = f"Polling until the connection that listens is open again: {str(error).strip()}"
        emit("worker.listener_lost", message, level=logging.WARNING)

    def _emit_lost(self, error: Exception) -> None:
        message = f"PostgreSQL is unavailable, trying again until it is back: {str(error).strip()}"
        emit("worker.database_lost", message, level=logging.WARNING)


def load_json(data: bytes | str) -> Any:
    """Does json.loads() for what PostgreSQL writes: no white space around it, UTF-8, and most often empty. JSON that
    cannot be loaded becomes an Unreadable, so that the other rows of the claim are read (promise 8).
    """
    if data == b"[]":
        return []
    if data == b"{}":
        return {}
    try:
        return _scan(data if isinstance(data, str) else data.decode(), 0)[0]
    except (RecursionError, ValueError) as error:  # too deep, or a number of more than 4,300 digits
        return Unreadable(str(error))


# All that could have been sent while there was no connection. The look for due jobs finds events, too.
ALL = (
    notify.ready(notify.ANY_QUEUE),
    notify.DUE,
    notify.cancel(notify.ANY_QUEUE),
    notify.SCHEDULES,
    notify.worker(notify.ANY_WORKER),
)


class JobsListener:
    """Listens for jobs. `listens` says whether LISTEN works now; while that is not known, whether to try it."""

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
        self._heard.extend(ALL)

    def note_cut(self) -> None:
        """Called when the connection is lost, and nothing is heard until another one is open. Only for a connection
        that does nothing else."""
        self.listens = False
        self._heard.extend(ALL)

    def hear(self, connection: psycopg.Connection[Any]) -> list[str]:
        """Returns the payloads that have come since the last call. Does not wait. Raises psycopg.Error."""
        if self.listens:
            connection.pgconn.consume_input()
            while (notification := connection.pgconn.notifies()) is not None:
                self._note(notification)
        return self.pending()

    def pending(self) -> list[str]:
        """Returns the payloads that were noted, and not yet returned."""
        payloads = list(self._heard)
        self._heard.clear()
        return payloads

    def close(self, connection: psycopg.Connection[Any]) -> list[str]:
        """Stops listening. Returns the payloads of all that was committed before. Raises psycopg.Error."""
        if self.listens:
            # What the server has for us comes before its answer.
            connection.execute(f"UNLISTEN {notify.CHANNEL}")
        return self.hear(connection)

    def _note(self, notification: PGnotify) -> None:
        self._heard.append(notification.extra.decode(errors="replace"))

    def _test(self, connection: psycopg.Connection[Any]) -> None:
        """Sends a NOTIFY from another connection: behind a pooler in transaction mode it does not arrive."""
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
            wait_for({connection.pgconn.socket: EVENT_READ}, left)
        self._is_tested = True

    def _give_up(self, why: str) -> None:
        self.listens = self._shall_listen = False
        self._is_tested = True
        message = f"LISTEN does not work here ({why}): looking for jobs by polling instead."
        emit("worker.listen_unavailable", message, level=logging.WARNING)
