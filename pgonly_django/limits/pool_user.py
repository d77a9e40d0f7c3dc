"""The connections of limiters and budgets: never the caller's, so that they are no part of its transaction."""

import asyncio
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import router
from psycopg.pq.abc import PGresult

from pgonly_django import exceptions
from pgonly_django.conf import settings
from pgonly_django.database.operation import Operation
from pgonly_django.database.pool import Pool, PoolUser, pool_for
from pgonly_django.database.statement import Statement
from pgonly_django.database.testcase import Advice
from pgonly_django.models import Limiter

TIMEOUT_SECONDS = 5.0  # that a statement may take, and the time that it may wait for a connection


def limits_error(error: exceptions.DatabaseCallError) -> exceptions.LimitsError:
    """What a caller gets for an error of the pool."""
    if isinstance(error, exceptions.DatabaseUnansweredError):
        return exceptions.LimitsUnansweredError(*error.args)
    if isinstance(error, exceptions.DatabaseUnavailableError):
        return exceptions.LimitsUnavailableError(*error.args)
    return exceptions.LimitsError(*error.args)


LIMITS = PoolUser(
    name="limits",
    size_option='PGONLY["LIMITS_POOL_SIZE"]',
    error=limits_error,
    advice=Advice(
        without_database="Limiters and budgets are rows there.",
        in_other_thread=(
            "For limiters and budgets, use `async with` in coroutines, and for threads a TransactionTestCase (in "
            "pytest-django: django_db(transaction=True))."
        ),
    ),
)


def pool() -> Pool:
    """This process's connections to the database that the router names for limiters."""
    return pool_for(router.db_for_write(Limiter), settings().limits_pool_size, LIMITS)


def call(pool: Pool, statement: Statement, **params: Any) -> Operation[PGresult]:
    """The result of the statement. Raises LimitsError."""
    return pool.call(statement, statement.values(params), TIMEOUT_SECONDS, TIMEOUT_SECONDS)


def refuse_event_loop(what: str) -> None:
    """Raises SynchronousOnlyOperation in a coroutine: all others on its loop would stand still while this one waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SynchronousOnlyOperation(
        f"`with {what}` would block the event loop, also for those who are inside. Use `async with`."
    )
