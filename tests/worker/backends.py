"""The connections that a test's workers have open, as the server sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

OTHERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
BACKENDS = """
SELECT application_name, pid, query_start FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'pgonly %%'
    AND application_name NOT LIKE 'pgonly tests%%' AND NOT pid = ANY (%s) ORDER BY pid
"""


def all_pids() -> list[int]:
    """As of now: pools keep theirs from test to test."""
    with connection.cursor() as cursor:
        cursor.execute(OTHERS)
        return [pid for (pid,) in cursor.fetchall()]


def backends(before: list[int]) -> list[tuple]:
    """(application_name, pid, query_start) of each that was not there `before`."""
    with connection.cursor() as cursor:
        cursor.execute(BACKENDS, [before])
        return cursor.fetchall()


@contextmanager
def no_more_connections() -> Iterator[None]:
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    connection.ensure_connection()
    with connection._nodb_cursor() as server:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            yield
        finally:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
