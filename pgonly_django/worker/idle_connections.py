"""A process keeps no connection for long that it does not need. A thread without work closes those that CONN_MAX_AGE
keeps open; while the worker sleeps those of Django's pools are closed too, and ours for caches and limiters. All are
opened again when they are needed."""

from __future__ import annotations

import contextlib
import queue
from typing import Any, TypeVar

from django.db import connections

from pgonly_django.database import pool

KEEP_OPEN_SECONDS = 60.0  # by a thread that has nothing to do

Message = TypeVar("Message")


def take_from(inbox: queue.SimpleQueue[Message]) -> Message:
    """The next message. While none comes this thread closes its connections."""
    while True:
        try:
            return inbox.get(timeout=KEEP_OPEN_SECONDS)
        except queue.Empty:
            with contextlib.suppress(Exception):  # a connection may break while it is closed
                connections.close_all()


def close_pools() -> None:
    """Close what pools of this process keep open. Raises what Django raises for a pool that it cannot close."""
    pool.close_all_idle()
    for alias in connections:
        connection: Any = connections[alias]
        if connection.vendor == "postgresql" and connection.settings_dict["OPTIONS"].get("pool"):
            connection.close()
            connection.close_pool()
