"""Processes that tests start: their environment, and many of them that begin together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.db import connection

ROOT = Path(__file__).resolve().parent.parent
OF_WORKERS = "tests.process.worker_settings"


def database_url(**changes: str) -> str:
    """The DATABASE_URL of the test database, with `changes` of its entry in DATABASES."""
    place = {**connection.settings_dict, **changes}
    host = place["HOST"] or place["OPTIONS"].get("host", "")
    who = quote(place["USER"]) + (f":{quote(place['PASSWORD'])}" if place["PASSWORD"] else "")
    if host.startswith("/") or not host:
        return f"postgres://{who}@/{place['NAME']}?host={quote(host)}"
    return f"postgres://{who}@{host}:{place['PORT'] or 5432}/{place['NAME']}"


def environment(settings: str = "tests.settings", **variables: str) -> dict[str, str]:
    """Of a process with these settings on the test database."""
    place = {"DJANGO_SETTINGS_MODULE": settings, "DATABASE_URL": database_url()}
    return {**os.environ, **place, **variables}


def start_crowd(module: str, *arguments: Any, settings: str = "tests.settings") -> subprocess.Popen[str]:
    """`python -m module`, which calls fork_together(); it gets its arguments as JSON."""
    command = [sys.executable, "-m", module, *map(json.dumps, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(settings), stdout=subprocess.PIPE, text=True)


def results_of(crowd: subprocess.Popen[str]) -> list[Any]:
    """What its processes have reported, once all of them have ended."""
    output, _ = crowd.communicate(timeout=150)
    assert crowd.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


def fork_together(count: int, job: Callable[[int, Callable[[], None]], Any]) -> bool:
    """Fork processes that report what `job(number, begin)` returns; whether one of them failed.

    `begin()` returns in all of them at once, after the last fork.
    """
    start, started = os.pipe()
    children = [_fork(job, number, start, started) for number in range(count)]
    os.close(started)
    codes = [os.waitpid(child, 0)[1] for child in children]
    return any(codes)


def _fork(job: Callable[..., Any], number: int, start: int, started: int) -> int:
    with warnings.catch_warnings(action="ignore"):  # of threads of the parent, which are part of some tests
        child = os.fork()
    if child:
        return child
    os.close(started)

    def begin() -> None:
        os.read(start, 1)  # the end of the pipe comes when the parent has closed it, after the last fork

    code = 1
    try:
        report(job(number, begin))
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def report(result: Any) -> None:
    """A line for the test."""
    os.write(1, json.dumps(result).encode() + b"\n")
