"""Tasks that use up what a process has."""

from __future__ import annotations

import importlib
import os
import signal
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
def take_the_lock():
    """That of tests/process/threaded_settings.py, as a library takes its own."""
    lock = importlib.import_module(os.environ["DJANGO_SETTINGS_MODULE"]).LOCK
    return "taken" if lock.acquire(timeout=5) else "locked"


def note_failure(task_result, error):
    mark(f"told of {task_result.args[0]}")


@task(on_failure=note_failure)
def kill_the_process(key):
    os.kill(os.getpid(), signal.SIGKILL)


@task
def leave_an_orphan():
    """A process whose parent ends before it does."""
    subprocess.run(["sh", "-c", "sleep 1 &"], check=True)
