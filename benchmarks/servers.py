"""The servers for a benchmark. Each listens on TCP loopback, serves one run, and stops at its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pgonly_django.embedded import Server

# For redis(): it answers a write after it is on disk.
APPEND_ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@contextlib.contextmanager
def postgres(*options: str) -> Iterator[str]:
    """The URL of a new PostgreSQL with its default configuration, or DATABASE_URL if it is set."""
    given = os.environ.get("DATABASE_URL")
    if given:
        yield given
        return
    directory = Path(tempfile.mkdtemp(prefix="pgonly-bench-"))
    server = Server(directory / "postgres", port=free_port(), options=("max_connections=200", *options))
    try:
        server.start()
        yield server.url()
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def redis(*options: str) -> Iterator[str | None]:
    """The URL of a new redis-server, or None without its binary. It writes nothing to disk unless `options` say so."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    port, directory = free_port(), tempfile.mkdtemp(prefix="pgonly-bench-")
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "", *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(timeout=10)
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on 127.0.0.1:{port} after {seconds} s")
