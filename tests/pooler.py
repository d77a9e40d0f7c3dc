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

    It knows nothing of prepared statements.
    """
    port = free_port()
    try:
        with started(_configuration(settings, port), lambda: _answers(port)):
            yield port
    finally:
        on_django._direct.clear()  # what this process has learnt of connections through it


@contextlib.contextmanager
def started(configuration, is_up):
    """A PgBouncer with this text as its file. The test is skipped where the program is not installed."""
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        pytest.skip("pgbouncer is not installed")
    # Not pytest's own temporary folder: every run that starts closes that to PgBouncer's account.
    with tempfile.TemporaryDirectory(prefix="pgonly-") as folder:
        file = Path(folder) / "pgbouncer.ini"
        file.write_text(configuration)
        Path(folder).chmod(0o755)  # PgBouncer refuses to run as root, so another account reads the file
        process = subprocess.Popen([binary, "-q", str(file)], cwd="/", **unprivileged())
        try:
            wait_for(lambda: is_up() or process.poll() is not None, 20, "pgbouncer to answer")
            assert process.poll() is None, "pgbouncer did not start"
            yield
        finally:
            process.terminate()
            process.wait(timeout=10)


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
