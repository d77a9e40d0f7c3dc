"""The names of a worker's connections in pg_stat_activity. They bear its id: should it be frozen, another worker finds
and ends the transactions that it has open, and rescues its jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast
from uuid import UUID

from django.db import connections

from pgonly_django.database.connect import OURS

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper

# For the project's own name: with a space and a UUID, the 63 bytes of a name. PostgreSQL writes what is not ASCII in
# four bytes for each, and would cut off the id.
ROOM = 26


@contextmanager
def connections_named(worker_id: UUID) -> Iterator[None]:
    """New connections of Django's bear the worker's id behind the name that the project gives them."""
    ours = [connection for connection in connections.all() if connection.vendor == "postgresql"]
    settings = [connections.settings[connection.alias] for connection in ours]
    before = [each["OPTIONS"] for each in settings]
    for connection, each in zip(cast("list[DatabaseWrapper]", ours), settings, strict=True):
        given = each["OPTIONS"].get("application_name") or os.environ.get("PGAPPNAME") or f"{OURS}jobs"
        each["OPTIONS"] = {**each["OPTIONS"], "application_name": f"{_ascii(given)[:ROOM]} {worker_id}"}
        if each["OPTIONS"].get("pool"):
            connection.close_pool()  # it was made with the old name
    try:
        yield
    finally:
        for each, options in zip(settings, before, strict=True):
            each["OPTIONS"] = options


def _ascii(name: str) -> str:
    return name.encode("ascii", "replace").decode()
