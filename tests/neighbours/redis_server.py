"""A Redis server of the tests' own, on a free port of this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from benchmarks.servers import free_port
from tests.waiting import wait_for


@contextmanager
def redis_server(port: int | None = None) -> Iterator[str]:
    """Its URL, at a free port unless one is given. Skips the test where no redis-server is installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed.")
    port = port or free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: is_open(port), what="redis-server")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def is_open(port: int) -> bool:
    with closing(socket.socket()) as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
