"""Real `runworker` processes, and queries on the tables that they work on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import environ
import psycopg
from django.core.management import call_command
from django.db import connections

EMPTY = "TRUNCATE pgonly_job, pgonly_worker CASCADE"


class Workers:
    """`count` worker processes. After wait_until_ready() they are registered and idle. `logs`: "" as runworker starts,
    or "warning" without the lines of jobs that succeed."""

    def __init__(self, url: str, count: int, *flags: str, logs: str = "") -> None:
        self.url = url
        command = [sys.executable, "-m", "django", "runworker", *flags]
        path = os.pathsep.join(["", *sys.path])
        environment = {**os.environ, "BENCH_DATABASE_URL": url, "BENCH_LOGS": logs, "PYTHONPATH": path}
        self.processes = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(count)
        ]

    def wait_until_ready(self) -> None:
        listening = "SELECT count(*) FROM pgonly_worker WHERE stopped_at IS NULL"
        with psycopg.connect(self.url, autocommit=True) as connection:
            wait_for(lambda: first(connection, listening) >= len(self.processes), "the workers")
        time.sleep(0.3)  # for the first claim

    def stop(self) -> float:
        """Stop them with SIGTERM, as a deploy does. Returns the CPU seconds that they took."""
        seconds = 0.0
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = 0
            seconds += usage.ru_utime + usage.ru_stime
        return seconds


@contextlib.contextmanager
def workers(url: str, count: int, *flags: str, logs: str = "") -> Iterator[Workers]:
    running = Workers(url, count, *flags, logs=logs)
    try:
        running.wait_until_ready()
        yield running
    finally:
        for process in running.processes:
            if process.returncode is None:
                process.terminate()
                process.wait(timeout=60)


@contextlib.contextmanager
def django_on(url: str) -> Iterator[None]:
    """Point this process's Django at another server too, and migrate it."""
    connection = connections["default"]
    before = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update(environ.Env.db_url_config(url))
    try:
        call_command("migrate", verbosity=0)
        yield
    finally:
        connection.close()
        connection.settings_dict.update(before)


def empty(connection: psycopg.Connection[Any]) -> None:
    connection.execute(EMPTY)
    connection.execute("VACUUM ANALYZE pgonly_job")


def first(connection: psycopg.Connection[Any], query: str, *parameters: Any) -> Any:
    row = connection.execute(query, parameters).fetchone()
    return None if row is None else row[0]


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120, pause: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {seconds} s")
        time.sleep(pause)
