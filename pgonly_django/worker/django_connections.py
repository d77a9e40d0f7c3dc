"""Django's connections in a worker process: their names and keepalives, and their clean-up after a job and while a
thread has no work. Each is opened again when it is needed."""

from __future__ import annotations

import contextvars
import logging
import os
import queue
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections
from django.db.backends.signals import connection_created
from psycopg.pq import TransactionStatus

from pgonly_django.database import pool
from pgonly_django.database.connect import NOTICE_DEAD_PEERS, OUR_NAME
from pgonly_django.database.on_django import PASSED_BY
from pgonly_django.events import emit

# For the project's own name: with a space and a UUID, the 63 bytes of a name. PostgreSQL writes what is not ASCII in
# four bytes for each, and would cut off the id.
NAME_LENGTH = 26
KEEP_OPEN_SECONDS = 60.0  # by a thread that has nothing to do
LEAVE_SECONDS = 1.0
# ACTIVE: an interruption came during a statement; psycopg's Python implementation leaves the rest of it unread.
LEFT_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)

# The server's side of a connection whose machine lost its power: without this it keeps transaction and locks for
# two hours (Linux's default), and a job that saved a checkpoint inside atomic() could not be rescued for that long.
NOTICE_DEAD_CLIENT = """
SELECT set_config('tcp_keepalives_idle', '15', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '30000', false)
"""

# Whose they are.


@contextmanager
def connections_of_worker(worker_id: UUID) -> Iterator[None]:
    """Sets up new connections of Django. They notice within 30 s that the server does not answer any more, and the
    server that they do not: otherwise a job would wait for up to a quarter of an hour, with its lease renewed all the
    while. Options of the project win. Their names in pg_stat_activity have the worker's id, after the name that the
    project gives them. If this process is frozen, another worker finds and ends the transactions that it has open, and
    rescues its jobs.
    """
    settings = [connections.settings[connection.alias] for connection in _ours()]
    before = [each["OPTIONS"] for each in settings]
    for connection, each in zip(_ours(), settings, strict=True):
        each["OPTIONS"] = {**NOTICE_DEAD_PEERS, **each["OPTIONS"], "application_name": _name(each, worker_id)}
        if each["OPTIONS"].get("pool"):
            connection.close_pool()  # it was made with the old options
    connection_created.connect(_notice_dead_client)
    try:
        yield
    finally:
        connection_created.disconnect(_notice_dead_client)
        for each, options in zip(settings, before, strict=True):
            each["OPTIONS"] = options


def name_connections_of_thread(worker_id: UUID) -> None:
    """Sets only the names, and for the connections that this thread opens: in a web process, whose other threads are
    not workers. Below a pool of Django's they keep their names: it is shared by all."""
    for connection in _ours():
        settings = connection.settings_dict
        if not settings["OPTIONS"].get("pool"):
            options = {**settings["OPTIONS"], "application_name": _name(settings, worker_id)}
            connection.settings_dict = {**settings, "OPTIONS": options}


def _ours() -> list[Any]:
    return [connection for connection in connections.all() if connection.vendor == "postgresql"]


def _name(settings: dict[str, Any], worker_id: UUID) -> str:
    given = settings["OPTIONS"].get("application_name") or os.environ.get("PGAPPNAME") or f"{OUR_NAME}jobs"
    return f"{given.encode('ascii', 'replace').decode()[:NAME_LENGTH]} {worker_id}"


def _notice_dead_client(connection: Any, **_: Any) -> None:
    """Receiver of connection_created."""
    if connection.vendor == "postgresql" and not connection.settings_dict["HOST"].startswith("/"):
        connection.connection.execute(NOTICE_DEAD_CLIENT)


# Whether a job has changed its connection for the jobs after it.

# What the ORM sends, and what Django sends for atomic().
PLAIN = ("select", "insert", "update", "delete", "with", "savepoint", "release", "rollback")
_STATEMENT = re.compile(
    r"(?:^|;|\*/)\s*(?:set\s+(?!local\b|transaction\b|constraints\b)|reset\b|discard\b|listen\b|load\b|do\b|call\b"
    r"|prepare\b(?!\s+transaction)|deallocate\b|declare\b.*\bwith\s+hold\b|create\s+(?:local\s+|global\s+)?temp)",
    re.DOTALL,
)
_LOCAL_SETTING = re.compile(r"set_config\s*\([^()]*,\s*true\s*\)")


class ChangeWatch:
    """An execute wrapper, which costs less than a microsecond for each statement. `is_changed` is true after a
    statement whose effect outlasts its transaction: a setting, a role, a session lock, a temporary table."""

    __slots__ = ("is_changed",)

    def __init__(self) -> None:
        self.is_changed = False

    def __call__(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        if not self.is_changed:
            if isinstance(sql, bytes):
                text = sql.decode(errors="replace")
            elif hasattr(sql, "as_string"):  # psycopg's composed SQL
                text = sql.as_string(context["connection"].connection)
            else:
                text = str(sql)
            self.is_changed = outlasts_its_transaction(text)
        return execute(sql, params, many, context)


PASSED_BY.add(ChangeWatch)  # no effect of our own statements outlasts its transaction


def outlasts_its_transaction(sql: str) -> bool:
    text = sql.lower()
    if "advisory_lock" in text or " into temp" in text:
        return True
    if "set_config" in text and "set_config" in _LOCAL_SETTING.sub("", text):
        return True
    if text.startswith(PLAIN) and ";" not in text:
        return False
    return _STATEMENT.search(text) is not None


# After a job: no transaction stays open, no broken connection stays in the slot, idle ones follow CONN_MAX_AGE.

# The aliases that this thread connected to. Asking Django for all of them costs 3 us a job, most of which use none.
_thread = threading.local()


def _note(connection: Any, **_: Any) -> None:
    """Receiver of connection_created. It watches no connection of the main thread, in which no job runs."""
    vars(_thread).setdefault("aliases", set()).add(connection.alias)
    if threading.current_thread() is threading.main_thread():
        return
    watch = _watch_of(connection)
    if watch is None:  # first in the list: Django's execute_wrapper() takes away the last one, whatever it is
        connection.execute_wrappers.insert(0, ChangeWatch())
    else:
        watch.is_changed = False


def _watch_of(connection: Any) -> ChangeWatch | None:
    wrappers = connection.execute_wrappers
    return next((wrapper for wrapper in wrappers if isinstance(wrapper, ChangeWatch)), None)


connection_created.connect(_note, dispatch_uid=__name__)


def clean_up_connections(task: str, *, closes: bool = False) -> list[str]:
    """Brings this thread's connections into order, or closes them if the thread ends, and warns, with the task's name,
    about what it left. Raises nothing. Returns the aliases on which the task had written in a transaction that it did
    not commit: those rows are lost.
    """
    aliases: set[str] | None = vars(_thread).get("aliases")
    if not aliases:
        return []
    lost = [alias for alias in tuple(aliases) if _clean_up(alias, task)]
    if closes:
        with suppress(Exception):  # a connection may break while it is closed
            connections.close_all()
    return lost


def _clean_up(alias: str, task: str) -> bool:
    """Returns whether rows are lost."""
    connection: Any = None
    opened: Any = None
    try:
        connection = connections[alias]
        opened = connection.connection
        if opened is not None:
            return _put_in_order(connection, task)
        _thread.aliases.discard(alias)
    except BaseException:  # noqa: BLE001 - a broken connection may break anywhere
        # The next job gets another one, and the server keeps no session of this one: not even where Django has
        # forgotten the connection, which it does when it fails to close it.
        with suppress(BaseException):
            _throw_away(connection)
        with suppress(BaseException):
            opened.close()
        message = f"Could not clean up after {task}"
        with suppress(BaseException):
            emit("worker.cleanup_failed", message, level=logging.ERROR, exc_info=True)
    return False


def _put_in_order(connection: Any, task: str) -> bool:
    """Returns whether rows are lost."""
    watch = _watch_of(connection)
    is_ours = connection.vendor == "postgresql"
    status: TransactionStatus | None = connection.connection.info.transaction_status if is_ours else None
    if connection.in_atomic_block or status in LEFT_OPEN:
        is_lost = has_written(connection, status)
        _throw_away(connection)
        message = f"{task} left a transaction open on {connection.alias!r}; it was rolled back."
        emit("worker.transaction_leaked", message, level=logging.WARNING, task=task)
        return is_lost
    if status is TransactionStatus.UNKNOWN:
        _throw_away(connection)
        message = f"{task} left a broken connection to {connection.alias!r}; it was closed."
        emit("worker.connection_broken", message, level=logging.WARNING, task=task)
    elif watch is not None and watch.is_changed:
        _throw_away(connection)
    else:
        connection.close_if_unusable_or_obsolete()
    return False


def has_written(connection: Any, status: TransactionStatus | None) -> bool:
    """Returns whether the open transaction holds changes; one that PostgreSQL has aborted may have held some."""
    if status is TransactionStatus.INTRANS:
        row = connection.connection.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").fetchone()
        return bool(row[0])
    return status is TransactionStatus.INERROR


def _throw_away(connection: Any) -> None:
    """Closes the connection, and forgets Django's wrapper and its state. What a job has changed beyond a rollback must
    not go back to Django's pool: there it is closed itself."""
    watch = _watch_of(connection)
    try:
        if watch is not None and watch.is_changed:
            connection.connection.close()
        connection.close()
    finally:
        del connections[connection.alias]


# The threads in which sync_to_async() runs a job's ORM calls. Each job has one, with connections that are closed after
# it: the one that asgiref shares in a process would keep a broken connection.


class SlotThread(threading.local):
    """A slot's thread. Its jobs start in a copy of `context`, so that below their asyncio.run() they have `place`."""

    def __init__(self) -> None:
        self.place = ThreadSensitiveContext()
        self.context = contextvars.Context()
        self.context.run(SyncToAsync.thread_sensitive_context.set, self.place)


def leave_thread_of(place: ThreadSensitiveContext, task: str) -> list[str]:
    """Cleans up after a sync job in the thread of its asyncio.run(), if any. Returns where it lost rows."""
    executor = SyncToAsync.context_to_thread_executor.pop(place, None)
    if executor is None:
        return []
    cleaned_up = executor.submit(clean_up_connections, task, closes=True)
    executor.shutdown(wait=False)
    try:
        return cleaned_up.result(LEAVE_SECONDS)
    except TimeoutError:  # what the job has left running there is still busy
        return []


async def aleave_thread_of(place: ThreadSensitiveContext, task: str) -> list[str]:
    """Does the same after an async job, while `place` is entered."""
    if place not in SyncToAsync.context_to_thread_executor:
        return []
    return await sync_to_async(clean_up_connections)(task, closes=True)


# Without work.

Message = TypeVar("Message")


def take_from(inbox: queue.SimpleQueue[Message]) -> Message:
    """Returns the next message. While none comes this thread closes its connections."""
    while True:
        try:
            return inbox.get(timeout=KEEP_OPEN_SECONDS)
        except queue.Empty:
            with suppress(Exception):  # a connection may break while it is closed
                connections.close_all()


def close_pools() -> None:
    """Closes what pools of this process keep open: those for caches and limiters, and Django's. Raises what Django
    raises for a pool that it cannot close."""
    pool.close_all_idle()
    for connection in _ours():
        if connection.settings_dict["OPTIONS"].get("pool"):
            connection.close()
            connection.close_pool()
