"""Whether a NOTIFY arrives where workers LISTEN."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress

import psycopg

from pgonly_django.database.connect import connect
from pgonly_django.database.listener import listen_alias

NAME = "pgonly monitoring"


def seconds_until_heard(alias: str, seconds: float) -> float | None:
    """Returns how long a NOTIFY to the database of `alias` takes to the connection on which workers LISTEN; None when
    it has not arrived within `seconds`, as behind a pooler in transaction mode. It opens two connections, beside any
    transaction. Raises psycopg.Error.
    """
    channel = f"pgonly_heard_{secrets.token_hex(8)}"  # no worker wakes up by it
    with (
        connect(listen_alias(alias), application_name=NAME) as listening,
        connect(alias, application_name=NAME) as telling,
    ):
        listening.execute(f"LISTEN {channel}", prepare=False)
        try:
            began = time.monotonic()
            telling.execute("SELECT pg_notify(%s, '')", [channel], prepare=False)
            for _ in listening.notifies(timeout=seconds, stop_after=1):
                return time.monotonic() - began
            return None
        finally:
            with suppress(psycopg.Error):
                listening.execute(f"UNLISTEN {channel}", prepare=False)  # a pooler keeps the connection
