"""After a job: no transaction stays open, no broken connection stays in the slot, idle ones follow CONN_MAX_AGE."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

from django.db import connections
from django.db.backends.signals import connection_created
from psycopg.pq import TransactionStatus

from pgonly_django.database.connect import NOTICE_DEAD_PEERS
from pgonly_django.events import emit
from pgonly_django.worker.connection_changes import Watch

# The server's side of a connection whose machine lost its power: without this it keeps transaction and locks for
# two hours (Linux's default), and a job that saved a checkpoint inside atomic() could not be rescued meanwhile.
NOTICE_DEAD_CLIENTS = """
SELECT set_config('tcp_keepalives_idle', '15', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '30000', false)
"""


def notice_dead_clients(connection: Any, **_: Any) -> None:
    """Receiver of connection_created in a worker: the server drops a vanished worker's connection after 30 s."""
    if connection.vendor == "postgresql" and not connection.settings_dict["HOST"].startswith("/"):
        connection.connection.execute(NOTICE_DEAD_CLIENTS)


@contextmanager
def noticing_dead_servers() -> Iterator[None]:
    """Meanwhile Django's own connections to come too notice within 30 s that nobody answers any more: a job would
    wait for up to a quarter of an hour, with its lease renewed all the while. OPTIONS of the project's win."""
    ours = [each for each in connections.all() if each.vendor == "postgresql"]
    settings = [connections.settings[connection.alias] for connection in ours]
    before = [each["OPTIONS"] for each in settings]
    for each in settings:
        each["OPTIONS"] = {**NOTICE_DEAD_PEERS, **each["OPTIONS"]}
    try:
        yield
    finally:
        for each, options in zip(settings, before, strict=True):
            each["OPTIONS"] = options


# The aliases that this thread connected to. Asking Django for all of them costs 3 us a job, most of which use none.
_thread = threading.local()


def _note_alias(connection: Any, **_: Any) -> None:
    """Receiver of connection_created."""
    vars(_thread).setdefault("aliases", set()).add(connection.alias)


def _watch(connection: Any, **_: Any) -> None:
    """Receiver of connection_created: what is new is unchanged. Jobs run in threads, the main one is the caller's."""
    if threading.current_thread() is threading.main_thread():
        return
    watch = _watch_of(connection)
    if watch is None:  # first in the list: Django's execute_wrapper() takes away the last one, whosever it is
        connection.execute_wrappers.insert(0, Watch())
    else:
        watch.is_changed = False


def _watch_of(connection: Any) -> Watch | None:
    wrappers = connection.execute_wrappers
    return next((wrapper for wrapper in wrappers if isinstance(wrapper, Watch)), None)


connection_created.connect(_note_alias, dispatch_uid="pgonly_django.worker.connection_cleanup")
connection_created.connect(_watch, dispatch_uid="pgonly_django.worker.connection_cleanup.watch")


def clean_up_connections(task: str) -> list[str]:
    """Bring this thread's connections into order and warn, with the task's name, about what it left. Raises nothing.

    Returns the aliases on which the task had written in a transaction that it did not commit: those rows are lost.
    """
    aliases: set[str] | None = vars(_thread).get("aliases")
    if not aliases:
        return []
    try:
        return _clean_up_all(aliases, task)
    except BaseException:  # noqa: BLE001 - a broken connection may break anywhere
        message = f"Could not tidy up after {task}"
        with suppress(BaseException):
            emit("worker.cleanup_failed", message, level=logging.ERROR, exc_info=True)
        return []


def _clean_up_all(aliases: set[str], task: str) -> list[str]:
    lost: list[str] = []
    broken: BaseException | None = None
    for alias in tuple(aliases):
        connection = connections[alias]
        if connection.connection is None:
            aliases.discard(alias)
            continue
        try:
            lost += [alias] if _clean_up(connection, task) else []
        except BaseException as error:  # noqa: BLE001 - raised below, when the others are in order
            broken = error
            _let_go(connection)
    if broken is not None:
        raise broken
    return lost


def _let_go(connection: Any) -> None:
    """The job has spoilt it: the next one gets another, and the server keeps no session of this one."""
    for close in (partial(_throw_away, connection), connection.connection.close):
        with suppress(BaseException):
            close()


def _clean_up(connection: Any, task: str) -> bool:
    """Whether rows are lost."""
    is_lost = False
    watch = _watch_of(connection)
    status = _transaction_status(connection)
    if connection.in_atomic_block or status in LEFT_OPEN:
        is_lost = _has_written(connection, status)
        _throw_away(connection)
        message = f"{task} left a transaction open on {connection.alias!r}; it was rolled back."
        emit("worker.transaction_leaked", message, level=logging.WARNING, task=task)
    elif status is TransactionStatus.UNKNOWN:
        _throw_away(connection)
        message = f"{task} left a broken connection to {connection.alias!r}; it was closed."
        emit("worker.connection_broken", message, level=logging.WARNING, task=task)
    elif watch is not None and watch.is_changed:
        _throw_away(connection)
    else:
        connection.close_if_unusable_or_obsolete()
    return is_lost


def _has_written(connection: Any, status: TransactionStatus | None) -> bool:
    """Whether the open transaction holds changes; one that PostgreSQL has aborted may have held some."""
    if status is TransactionStatus.INTRANS:
        row = connection.connection.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").fetchone()
        return bool(row[0])
    return status is TransactionStatus.INERROR


# ACTIVE: an interruption came amid a statement, of which psycopg's Python implementation leaves the rest unread.
LEFT_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)


def _transaction_status(connection: Any) -> TransactionStatus | None:
    if connection.vendor != "postgresql":
        return None
    return cast("TransactionStatus", connection.connection.info.transaction_status)


def _throw_away(connection: Any) -> None:
    """Close the connection, and forget Django's wrapper with whatever state it is in.

    Closed itself, not only given back to its pool, where the job had changed more of it than a rollback takes back.
    """
    watch = _watch_of(connection)
    try:
        if watch is not None and watch.is_changed:
            connection.connection.close()
        connection.close()
    finally:
        del connections[connection.alias]
