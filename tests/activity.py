"""The other connections to the test database, as the server sees them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection

from tests.sql import sql

OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
OF_CLIENTS = "backend_type = 'client backend'"


def pids(condition: str = OF_CLIENTS, on: psycopg.Connection[Any] | None = None) -> list[int]:
    """The server's processes for which `condition` is true, asked `on` this connection or on Django's."""
    return [pid for (pid,) in _ask(f"SELECT pid {OTHERS} AND {condition} ORDER BY pid", on)]


def end(condition: str = OF_CLIENTS, on: psycopg.Connection[Any] | None = None) -> int:
    """End the connections for which it is true, and wait for that. How many they were."""
    return len(_ask(f"SELECT pg_terminate_backend(pid, 5000) {OTHERS} AND {condition}", on))


def backends(before: Collection[int]) -> list[Any]:
    """(application_name, pid, query_start) of each of ours that was not there `before`."""
    ours = "application_name LIKE 'pgonly %' AND application_name NOT LIKE 'pgonly tests%'"
    found = _ask(f"SELECT application_name, pid, query_start {OTHERS} AND {ours} ORDER BY pid")
    return [each for each in found if each[1] not in before]


@contextmanager
def no_more_connections() -> Iterator[None]:
    """The server accepts no new ones. Those that are open stay."""
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    connection.ensure_connection()
    with connection._nodb_cursor() as server:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            yield
        finally:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def _ask(query: str, on: psycopg.Connection[Any] | None = None) -> list[Any]:
    return sql(query) if on is None else on.execute(query).fetchall()
