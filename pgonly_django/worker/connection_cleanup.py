"""After a job: no transaction stays open, no broken connection stays in the slot, idle ones follow CONN_MAX_AGE."""

import logging
import threading
from contextlib import suppress
from functools import partial
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created
from psycopg.pq import TransactionStatus

from pgonly_django.events import emit
from pgonly_django.worker.connection_changes import ChangeWatch

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
    """Bring this thread's connections into order, or close them if the thread ends, and warn, with the task's name,
    about what it left. Raises nothing.

    Returns the aliases on which the task had written in a transaction that it did not commit: those rows are lost.
    """
    aliases: set[str] | None = vars(_thread).get("aliases")
    if not aliases:
        return []
    try:
        lost = _clean_up_all(aliases, task)
        if closes:
            connections.close_all()
    except BaseException:  # noqa: BLE001 - a broken connection may break anywhere
        message = f"Could not clean up after {task}"
        with suppress(BaseException):
            emit("worker.cleanup_failed", message, level=logging.ERROR, exc_info=True)
        return []
    return lost


def _clean_up_all(aliases: set[str], task: str) -> list[str]:
    lost: list[str] = []
    broken: BaseException | None = None
    for alias in tuple(aliases):
        connection = connections[alias]
        opened = connection.connection
        if opened is None:
            aliases.discard(alias)
            continue
        try:
            lost += [alias] if _clean_up(connection, task) else []
        except BaseException as error:  # noqa: BLE001 - raised below, when the others are in order
            broken = error
            # The next job gets another one, and the server keeps no session of this one: not even where Django has
            # forgotten the connection, which it does when it fails to close it.
            for close in (partial(_throw_away, connection), opened.close):
                with suppress(BaseException):
                    close()
    if broken is not None:
        raise broken
    return lost


def _clean_up(connection: Any, task: str) -> bool:
    """Whether rows are lost."""
    is_lost = False
    watch = _watch_of(connection)
    is_ours = connection.vendor == "postgresql"
    status: TransactionStatus | None = connection.connection.info.transaction_status if is_ours else None
    if connection.in_atomic_block or status in LEFT_OPEN:
        is_lost = has_written(connection, status)
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


def has_written(connection: Any, status: TransactionStatus | None) -> bool:
    """Whether the open transaction holds changes; one that PostgreSQL has aborted may have held some."""
    if status is TransactionStatus.INTRANS:
        row = connection.connection.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").fetchone()
        return bool(row[0])
    return status is TransactionStatus.INERROR


# ACTIVE: an interruption came during a statement; psycopg's Python implementation leaves the rest of it unread.
LEFT_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)


def _throw_away(connection: Any) -> None:
    """Close the connection, and forget Django's wrapper and its state. What a job has changed beyond a rollback must
    not go back to Django's pool: there it is closed itself."""
    watch = _watch_of(connection)
    try:
        if watch is not None and watch.is_changed:
            connection.connection.close()
        connection.close()
    finally:
        del connections[connection.alias]
