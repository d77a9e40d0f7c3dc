"""A limit of time for statements on Django's connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import Error, connections, transaction
from psycopg.errors import QueryCanceled

# Until the end of the transaction. Returns what was set before, then what is set now. Without JIT: to compile the plan
# for the sums of the runs can take most of the second that they may take.
LIMIT_STATEMENTS = """
SELECT current_setting('statement_timeout'), current_setting('jit'),
    set_config('statement_timeout', %s, true), set_config('jit', %s, true)
"""


@contextmanager
def time_limit(alias: str, limit: timedelta) -> Iterator[None]:
    """A statement inside that takes longer raises OperationalError (see `timed_out`). None is compiled."""
    milliseconds = str(int(limit / timedelta(milliseconds=1)))
    is_nested = is_in_transaction(alias)
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(LIMIT_STATEMENTS, [milliseconds, "off"])
        before = (cursor.fetchone() or ("0", "on"))[:2]
        yield
        if is_nested:  # else the setting ends with the transaction here
            cursor.execute(LIMIT_STATEMENTS, before)


def is_in_transaction(alias: str) -> bool:
    """Whether an atomic() would not begin a transaction. Without autocommit the caller has one, or is about to."""
    connection = connections[alias]
    return connection.in_atomic_block or not connection.get_autocommit()


def timed_out(error: Error) -> bool:
    return isinstance(error.__cause__, QueryCanceled)
