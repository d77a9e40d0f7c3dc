"""Supervisors and their processes, as the tests see them from outside."""

from __future__ import annotations

import contextlib
import os
import time

from pgonly_django.models import Worker
from tests.waiting import wait_for


def children(supervisor):
    """By the names of the processes: the pids of those that have not stopped."""
    rows = Worker.objects.filter(name__startswith=f"{supervisor.name}-", stopped_at=None)
    return dict(rows.values_list("name", "pid"))


def start(workers, count, *flags, **options):
    """A supervisor whose `count` processes are there."""
    supervisor = workers.start("--processes", str(count), *flags, ready=False, **options)
    wait_for(
        lambda: len(children(supervisor)) == count or supervisor.process.poll() is not None,
        what=f"{count} processes",
    )
    assert supervisor.process.poll() is None, supervisor.output
    return supervisor


def touching(path, condition):
    """A condition to wait for. The reloader notices a change of a file that it has seen before: so the file is touched
    every three seconds until it is true."""
    touched_at = 0.0

    def is_true():
        nonlocal touched_at
        if time.monotonic() - touched_at > 3:
            path.touch()
            touched_at = time.monotonic()
        return condition()

    return is_true


def lives(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
