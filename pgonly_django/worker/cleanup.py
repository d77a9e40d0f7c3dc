"""After a job: no transaction stays open, no broken connection stays in the slot, idle ones follow CONN_MAX_AGE."""

from __future__ import annotations

import logging
from typing import Any, cast

from django.db import connections
from psycopg.pq import TransactionStatus

from pgonly_django.events import emit


def clean_up_connections(task: str) -> None:
    """Bring this thread's connections into order and warn, with the task's name, about what it left."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is None:
            continue
        status = _transaction_status(connection)
        if connection.in_atomic_block or status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            _throw_away(connection)
            message = f"{task} left a transaction open on {connection.alias!r}; it was rolled back."
            emit("worker.transaction_leaked", message, level=logging.WARNING, task=task)
        elif status is TransactionStatus.UNKNOWN:
            _throw_away(connection)
            message = f"{task} left a broken connection to {connection.alias!r}; it was closed."
            emit("worker.connection_broken", message, level=logging.WARNING, task=task)
        else:
            connection.close_if_unusable_or_obsolete()


def _transaction_status(connection: Any) -> TransactionStatus | None:
    if connection.vendor != "postgresql":
        return None
    return cast("TransactionStatus", connection.connection.info.transaction_status)


def _throw_away(connection: Any) -> None:
    """Close the raw connection and forget Django's wrapper with whatever state it is in."""
    connection.connection.close()
    del connections[connection.alias]
