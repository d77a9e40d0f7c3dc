"""The memory of a job, written and read again and again while the database is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connections
from psycopg import errors

from pgonly_django.context.run import Run
from pgonly_django.exceptions import LeaseLost

T = TypeVar("T")

AWAY_SECONDS = 0.5


def retry_while_down(run: Run, statement: Callable[..., T], *arguments: Any) -> T:
    """`statement(alias, *arguments)`, one of memo's, repeated until the database is back: what was paid for is
    not thrown away. They are fenced, and the same when repeated.

    Not inside atomic(), whose transaction is gone. A run that has to end raises its interruption instead, at a
    planned stop when the grace is over.
    """
    while True:
        try:
            return statement(run.alias, *arguments)
        except LeaseLost:
            run.lease_lost = run.context_raised = True
            raise
        except (OperationalError, InterfaceError, InternalError) as error:
            connection = connections[run.alias]
            if _is_collision(connection, error):
                continue
            if not _is_away(connection, error):
                raise
            if run.interruption is not None and not run.is_in_grace:
                run.context_raised = True
                raise run.interruption from error
            time.sleep(AWAY_SECONDS)


def _is_collision(connection: Any, error: Exception) -> bool:
    """Whether the statement, a transaction of its own, met another one, as some do under SERIALIZABLE."""
    collisions = (errors.SerializationFailure, errors.DeadlockDetected)
    return isinstance(error.__cause__, collisions) and not connection.in_atomic_block


def _is_away(connection: Any, error: Exception) -> bool:
    """Whether there is no primary to write to, and no transaction of the job's. The next try is on a new connection."""
    if connection.in_atomic_block:
        return False
    is_standby = isinstance(error.__cause__, errors.ReadOnlySqlTransaction)  # amid a failover
    if connection.connection is not None and not connection.connection.closed and not is_standby:
        return False
    connection.close()
    return True
