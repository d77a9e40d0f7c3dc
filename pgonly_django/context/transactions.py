"""Statements of the context that are repeated until the database is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connections
from psycopg import errors

from pgonly_django.context.run import Run
from pgonly_django.exceptions import LeaseLost

T = TypeVar("T")
PAUSE_SECONDS = 0.5
CONFLICTS = (errors.SerializationFailure, errors.DeadlockDetected)
# The SQLSTATEs of a lost connection, of an operator's or a timeout's intervention, and of lock_timeout.
PASSING = ("08", "57", "55P03")


def is_in_transaction(connection: Any) -> bool:
    """Returns whether a write would wait for a later COMMIT: inside atomic(), or without autocommit."""
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def retry_while_down(
    run: Run, statement: Callable[..., T], *arguments: Any, is_transaction: bool = False
) -> T:
    """Repeats `statement(alias, *arguments)`, a function of queue.checkpoints, until the database is back, since the
    result of a paid call is not thrown away. These functions are fenced and do the same when they are repeated. Inside
    atomic() it raises, since the transaction is lost. A run that was asked to end raises its interruption instead of
    waiting; after a planned stop it waits until the grace period is over. `is_transaction`: the statement
    is a transaction of its own, which is repeated also where Django has connected again by then, and after the
    project's lock_timeout or statement_timeout.
    """
    while True:
        try:
            return statement(run.alias, *arguments)
        except LeaseLost:
            run.lease_lost = run.context_raised = True
            raise
        except (OperationalError, InterfaceError, InternalError) as error:
            connection = connections[run.alias]
            # The statement's own transaction met another one, as some do under SERIALIZABLE.
            if isinstance(error.__cause__, CONFLICTS) and not connection.in_atomic_block:
                continue
            if not ((is_transaction and _passes(connection, error)) or _is_down(connection, error)):
                raise
            if run.interruption is not None and not run.is_in_grace:
                run.context_raised = True
                raise run.interruption from error
            time.sleep(PAUSE_SECONDS)


def _passes(connection: Any, error: Exception) -> bool:
    """Returns whether the error says nothing against its transaction. That of a lost connection has no SQLSTATE."""
    state = getattr(error.__cause__, "sqlstate", None)
    return not connection.in_atomic_block and (state is None or state.startswith(PASSING))


def _is_down(connection: Any, error: Exception) -> bool:
    """Returns whether no primary answers, outside of the job's transactions. The next attempt uses a new connection."""
    if connection.in_atomic_block:
        return False
    is_standby = isinstance(error.__cause__, errors.ReadOnlySqlTransaction)  # during a failover
    if connection.connection is not None and not connection.connection.closed and not is_standby:
        return False
    connection.close()
    return True
