"""A real PgBouncer in transaction mode before the test database."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from benchmarks.servers import free_port
from pgonly_django.database import on_django
from pgonly_django.embedded import unprivileged
from tests.waiting import wait_for


@contextlib.contextmanager
def pgbouncer(settings):
    """The TCP port of a PgBouncer that leads every database name to the server of a DATABASES entry.

    It knows nothing of prepared statements. The test is skipped where the program is not installed.
    """
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        pytest.skip("pgbouncer is not installed")
    port = free_port()
    # Not pytest's own temporary folder: every run that starts closes that to PgBouncer's account.
    with tempfile.TemporaryDirectory(prefix="pgonly-") as folder:
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(_configuration(settings, port))
        Path(folder).chmod(0o755)  # PgBouncer refuses to run as root, so another account reads the file
        process = subprocess.Popen([binary, "-q", str(configuration)], cwd="/", **unprivileged())
        try:
            wait_for(lambda: _answers(port) or process.poll() is not None, 10, "pgbouncer to listen")
            assert process.poll() is None, "pgbouncer did not start"
            yield port
        finally:
            process.terminate()
            process.wait(timeout=10)
            on_django._direct.clear()  # what this process has learnt of connections through it


def _configuration(settings, port):
    target = {
        "host": settings["HOST"] or settings["OPTIONS"].get("host"),
        "port": settings["PORT"] or 5432,
        "user": settings["USER"],
        "password": settings["PASSWORD"] or "none",
    }
    return (
        f"[databases]\n* = {' '.join(f'{name}={value}' for name, value in target.items())}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\nmax_prepared_statements = 0\ndefault_pool_size = 5\n"
    )


def _answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
