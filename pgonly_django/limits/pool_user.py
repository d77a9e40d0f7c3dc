"""The connections of limiters and budgets, which are never the caller's, so that they are not part of its transaction.

All callers of a limiter or a budget meet at its row, which any transaction may lock. To wait for this row is no outage,
and takes neither all connections nor the time of other rows: see call().
"""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, TypeVar

from django.core.exceptions import SynchronousOnlyOperation
from django.db import router
from django.db.models import Model
from psycopg import errors
from psycopg.pq.abc import PGresult

from pgonly_django.conf import settings
from pgonly_django.current_job import current_job
from pgonly_django.database.background import Background
from pgonly_django.database.connect import TRY_AGAIN
from pgonly_django.database.operation import Operation, Signal
from pgonly_django.database.pool import Pool, PoolUser, pool_for
from pgonly_django.database.statement import Statement
from pgonly_django.database.testcase import Advice
from pgonly_django.exceptions import LimitsError, LimitsUnansweredError, LimitsUnavailableError
from pgonly_django.models import Limiter

T = TypeVar("T")
TIMEOUT_SECONDS = 5.0  # that a statement may take, and the time that it may wait for a connection
# The time that a statement waits for a row, and for which the row then counts as locked. Callers that only spend from
# one budget get their turn sooner: 64 statements of 5 ms each are 0.3 s.
LOCK_SECONDS = 0.5
AGAIN_SECONDS = 0.5  # between two tries while the database is unavailable
LOOK_SECONDS = 0.5  # after which a call that waits for its turn looks by itself
# No call takes longer. What an interruption between two bytecodes leaves in _calls must not count forever.
LONGEST_SECONDS = 4 * TIMEOUT_SECONDS


@dataclass(eq=False, slots=True)
class _RowCall:
    """A call that is under way, or waits until its `signal` is set."""

    began: float = field(default_factory=time.monotonic)
    signal: Signal | None = None


# By alias and name: the calls in the order of their arrival, and when the row was last found locked.
_calls: dict[tuple[str, str], list[_RowCall]] = {}
_locked_at: dict[tuple[str, str], float] = {}
os.register_at_fork(after_in_child=_calls.clear)  # those are the parent's


LIMITS = PoolUser(
    name="limits",
    size_option='PGONLY["LIMITS_POOL_SIZE"]',
    errors=(LimitsError, LimitsUnavailableError, LimitsUnansweredError),
    advice=Advice(
        without_database="Limiters and budgets are rows there.",
        in_other_thread=(
            "For limiters and budgets, use `async with` in coroutines, and for threads a TransactionTestCase (in "
            "pytest-django: django_db(transaction=True))."
        ),
    ),
    lock_timeout=f"{LOCK_SECONDS}s",
)


# What a cancelled or unanswered call left undone.
background = Background("limits")


def pool(model: type[Model] = Limiter) -> Pool:
    """Returns this process's connections to the database that the router names for limiters, or for `model`."""
    return pool_for(router.db_for_write(model), settings().limits_pool_size, LIMITS)


def call(pool: Pool, statement: Statement, **params: Any) -> Operation[PGresult]:
    """Returns the result of the statement. Raises LimitsError.

    A statement with a `name` may change the row of that limiter or budget. For these, one connection of the pool stays
    free for others, as long as it has more than one. Where another transaction holds the row, LimitsUnavailableError is
    raised after LOCK_SECONDS, and at once for the same time after that.
    """
    name = params.get("name")
    if name is None:
        return (yield from _call(pool, statement, params))
    key, mine, most = (pool.alias, name), _RowCall(), max(pool.size - 1, 1)
    calls = _calls.setdefault(key, [])
    try:
        calls.append(mine)
        yield from _turn(key, calls, mine, most)
        return (yield from _call(pool, statement, params))
    except LimitsError as error:
        if not isinstance(error.__cause__, errors.LockNotAvailable):
            raise
        _locked_at[key] = time.monotonic()
        raise _locked(name) from error.__cause__
    finally:
        with contextlib.suppress(ValueError):
            calls.remove(mine)
        for next_one in calls[:most]:
            if next_one.signal is not None:
                next_one.signal.set()
        if not calls:
            _calls.pop(key, None)


def _call(pool: Pool, statement: Statement, params: dict[str, Any]) -> Operation[PGresult]:
    return pool.call(statement, statement.values(params), TIMEOUT_SECONDS, TIMEOUT_SECONDS)


def _turn(key: tuple[str, str], calls: list[_RowCall], mine: _RowCall, most: int) -> Operation[None]:
    """Waits, without a connection, until fewer than `most` calls of the row are before this one."""
    while True:
        now = time.monotonic()
        if now - _locked_at.get(key, -LOCK_SECONDS) < LOCK_SECONDS:
            raise _locked(key[1])
        before = takewhile(lambda call: call is not mine, tuple(calls))
        count = sum(now - call.began < LONGEST_SECONDS for call in before)
        if count < most:
            return
        if now - mine.began >= TIMEOUT_SECONDS:
            raise LimitsUnavailableError(
                f"{count} calls of {key[1]!r} were before this one for {TIMEOUT_SECONDS:g} s."
            )
        if mine.signal is not None:
            yield mine.signal
        mine.signal = Signal(LOOK_SECONDS)  # and look again: its turn may have come before


def _locked(name: str) -> LimitsUnavailableError:
    return LimitsUnavailableError(
        f"Another transaction holds the row of {name!r}: no call of it is admitted or settled before that has ended."
    )


def while_away(
    attempt: Callable[[], Operation[T]], patience_seconds: float, give_up_at: float = math.inf
) -> Operation[T]:
    """Returns the result of `attempt`, tried again while the database is unavailable, until `give_up_at` by
    time.monotonic(): in a job until its run has to end, as with all that a job writes, elsewhere for
    `patience_seconds`. Raises the interruption of a run that has to end."""
    if (job := current_job.get()) is None:
        give_up_at = min(time.monotonic() + patience_seconds, give_up_at)
    while True:
        if job is not None:
            job.raise_if_interrupted()
        try:
            return (yield from attempt())
        except LimitsError as error:
            is_away = isinstance(error, LimitsUnavailableError)
            is_passing = is_away or isinstance(error.__cause__, TRY_AGAIN)
            if not is_passing or time.monotonic() >= give_up_at:
                raise
        yield Signal(AGAIN_SECONDS)


def refuse_event_loop(what: str) -> None:
    """Raises SynchronousOnlyOperation in a coroutine: all others on its loop would stand still while this one waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SynchronousOnlyOperation(
        f"`with {what}` would block the event loop, also for the callers inside. Use `async with`."
    )
