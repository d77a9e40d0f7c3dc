"""PostgreSQL's files in memory, where there is enough of it. Each of the copies, TRUNCATEs and new databases of the
tests makes and removes hundreds of files; on a disk the kernel takes half of the time that the tests take for it.

A server that is killed recovers as from a disk. What a power cut does is not tested here.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import django

from pgonly_django import embedded

ROOT = Path(__file__).resolve().parent.parent
MEMORY = Path("/dev/shm")
NEEDED_BYTES = 6 * 1024**3  # the lanes together take a third of it


def folder() -> str | None:
    """For tempfile. None is its usual folder."""
    return str(MEMORY) if _has_enough() else None


@contextmanager
def new_server(port: int | None = None, options: tuple[str, ...] = ()) -> Iterator[embedded.Server]:
    """A PostgreSQL of a test's own, without our tables."""
    # Not pytest's own temporary folder: every session that starts closes that to PostgreSQL's account.
    with tempfile.TemporaryDirectory(prefix="pgonly-", dir=folder(), ignore_cleanup_errors=True) as place:
        server = embedded.Server(Path(place) / "data", port, options=options)
        try:
            server.start()
            yield server
        finally:
            server.stop("immediate")


def database() -> dict[str, Any]:
    """The DATABASES entry of the tests. Its data is removed with the process that started the server; without enough
    memory it stays in the checkout. Each environment has a server of its own, so that they can test side by side."""
    number = hashlib.sha256(f"{ROOT} {django.__file__}".encode()).hexdigest()[:12]
    data = MEMORY / f"pgonly-tests-{number}"
    # Processes that come later find the folder, whatever memory is left by then.
    if not data.exists() and not _has_enough():
        data = ROOT / f".postgres-tests-{number}"
    elif not _has_server(data):
        atexit.register(_remove, data, os.getpid())  # runs after the stop, which is registered later
    return embedded.database(data)


def _has_enough() -> bool:
    with suppress(OSError):
        shared = os.statvfs(MEMORY)
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
        return os.access(MEMORY, os.W_OK) and min(shared.f_bavail * shared.f_frsize, available) > NEEDED_BYTES
    return False


def _has_server(data: Path) -> bool:
    return (data / "postmaster.pid").exists()


def _remove(data: Path, starter: int) -> None:
    if os.getpid() != starter:
        return
    with Path(f"{data}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # no other process starts it in between
        if not _has_server(data):
            shutil.rmtree(data, ignore_errors=True)
