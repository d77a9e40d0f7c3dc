"""A server of a test's own that is away."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import psycopg


@contextmanager
def stopped(database):
    database.stop()
    try:
        yield
    finally:
        database.start()


@contextmanager
def frozen(database):
    """It takes connections and never answers."""
    postmaster = int((database.data / "postmaster.pid").read_text().split()[0])
    with halted(*serving_caches(database), postmaster):
        yield


def serving_caches(database):
    """The server's processes for the connections of caches."""
    with psycopg.connect(database.url()) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgonly cache'"
        return [pid for (pid,) in connection.execute(query)]


@contextmanager
def halted(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
