"""Django's own connections in a worker process: whose they are, and when either side notices that the other is gone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import connections
from django.db.backends.signals import connection_created

from pgonly_django.database.connect import NOTICE_DEAD_PEERS, OURS

# For the project's own name: with a space and a UUID, the 63 bytes of a name. PostgreSQL writes what is not ASCII in
# four bytes for each, and would cut off the id.
NAME_LENGTH = 26

# The server's side of a connection whose machine lost its power: without this it keeps transaction and locks for
# two hours (Linux's default), and a job that saved a checkpoint inside atomic() could not be rescued for so long.
NOTICE_DEAD_CLIENT = """
SELECT set_config('tcp_keepalives_idle', '15', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '30000', false)
"""


@contextmanager
def connections_of_worker(worker_id: UUID) -> Iterator[None]:
    """For new connections of Django. They notice within 30 s that the server does not answer any more, and the server
    that they do not: a job would wait for up to a quarter of an hour, its lease renewed all the while. Options of the
    project win.

    Their names in pg_stat_activity bear the worker's id, behind the name that the project gives them. If this process
    is frozen, another worker finds and ends the transactions that it has open, and rescues its jobs.
    """
    ours: list[Any] = [connection for connection in connections.all() if connection.vendor == "postgresql"]
    settings = [connections.settings[connection.alias] for connection in ours]
    before = [each["OPTIONS"] for each in settings]
    for connection, each in zip(ours, settings, strict=True):
        each["OPTIONS"] = {**NOTICE_DEAD_PEERS, **each["OPTIONS"], "application_name": _name(each, worker_id)}
        if each["OPTIONS"].get("pool"):
            connection.close_pool()  # it was made with the old options
    connection_created.connect(_notice_dead_client)
    try:
        yield
    finally:
        connection_created.disconnect(_notice_dead_client)
        for each, options in zip(settings, before, strict=True):
            each["OPTIONS"] = options


def name_connections_of_thread(worker_id: UUID) -> None:
    """The names alone, and for the connections that this thread opens: in a web process, whose other threads are no
    workers. Below a pool of Django's they keep theirs: it is shared by all."""
    ours: list[Any] = [connection for connection in connections.all() if connection.vendor == "postgresql"]
    for connection in ours:
        settings = connection.settings_dict
        if not settings["OPTIONS"].get("pool"):
            options = {**settings["OPTIONS"], "application_name": _name(settings, worker_id)}
            connection.settings_dict = {**settings, "OPTIONS": options}


def _name(settings: dict[str, Any], worker_id: UUID) -> str:
    given = settings["OPTIONS"].get("application_name") or os.environ.get("PGAPPNAME") or f"{OURS}jobs"
    return f"{given.encode('ascii', 'replace').decode()[:NAME_LENGTH]} {worker_id}"


def _notice_dead_client(connection: Any, **_: Any) -> None:
    """Receiver of connection_created."""
    if connection.vendor == "postgresql" and not connection.settings_dict["HOST"].startswith("/"):
        connection.connection.execute(NOTICE_DEAD_CLIENT)
