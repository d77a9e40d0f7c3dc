"""Tasks that use up what a process has."""

from __future__ import annotations

import os
import subprocess
import time

from pgonly_django import task
from tests.jobs import mark

_kept = []


@task
def take_memory(key, megabytes, seconds):
    """Keeps the memory, and works on for a while."""
    _kept.append(os.urandom(megabytes * 2**20))
    mark(f"{key}:taken")
    time.sleep(seconds)
    return os.getpid()


@task
def tell_pid():
    return os.getpid()


@task
def leave_an_orphan():
    """A process whose parent ends before it does."""
    subprocess.run(["sh", "-c", "sleep 1 &"], check=True)
