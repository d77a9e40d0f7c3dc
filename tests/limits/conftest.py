from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from pgonly_django import limiter
from pgonly_django.database.pool import _pools as pools
from pgonly_django.limits import declarations
from pgonly_django.limits.renewal import renewal

ROOT = Path(__file__).resolve().parents[2]
FOR_THE_PARENT = {"parent": {"concurrent": 1}}


@pytest.fixture
def limits(settings, transactional_db):
    """Declares limiters: limits(deepseek={"concurrent": 5}, pool_size=1)."""

    def declare(pool_size=4, **limiters):
        settings.PGONLY = {**settings.PGONLY, "LIMITERS": limiters, "LIMITS_POOL_SIZE": pool_size}
        declarations._declared.clear()

    yield declare
    renewal.forget()
    for pool in tuple(pools.values()):
        pool.close_idle()


class Holder:
    """Another thread that is inside of a limiter, until leave()."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options
        self.is_in, self._may_leave = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._hold, daemon=True)
        self.thread.start()

    def _hold(self) -> None:
        try:
            with limiter(*self.arguments, **self.options):
                self.is_in.set()
                assert self._may_leave.wait(60)
        except BaseException as error:
            self.error = error

    def leave(self) -> None:
        self._may_leave.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def hold(limits) -> Iterator[Any]:
    """hold("deepseek") is a Holder that has got in; hold("deepseek", wait=False) one that may have to wait."""
    with contextlib.ExitStack() as holders:

        def start(*arguments: Any, wait: bool = True, **options: Any) -> Holder:
            holder = Holder(*arguments, **options)
            holders.callback(holder.leave)
            if wait:
                assert holder.is_in.wait(30)
            return holder

        yield start


@pytest.fixture
def inside(transactional_db):
    """Counts who is inside of a limiter; reads (most at a time, uses)."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE tests_inside (n int, most int, uses int)")
        cursor.execute("INSERT INTO tests_inside VALUES (0, 0, 0)")

        def read():
            cursor.execute("SELECT most, uses FROM tests_inside")
            return cursor.fetchone()

        yield read
        cursor.execute("DROP TABLE tests_inside")


def start_crowd(
    job: str, count: int, limiters: dict[str, Any], pool_size: int = 1, **arguments: Any
) -> subprocess.Popen[str]:
    database = connection.settings_dict["NAME"]
    command = [sys.executable, "-m", "tests.limits.crowd", job, str(count), database]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    texts = [json.dumps(arguments), json.dumps({**FOR_THE_PARENT, **limiters}), str(pool_size)]
    return subprocess.Popen([*command, *texts], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def crowd(transactional_db):
    """Run a job of tests/limits/crowd.py in many processes; the results of all."""

    def run(job: str, count: int, limiters: dict[str, Any], **arguments: Any) -> list[Any]:
        process = start_crowd(job, count, limiters, **arguments)
        output, _ = process.communicate(timeout=150)
        assert process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]

    return run
