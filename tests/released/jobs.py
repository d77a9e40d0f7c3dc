"""The tasks of tests/process/test_versions.py. Each mark says which package ran it."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from django.db import connection

import pgonly_django
from pgonly_django import Backoff, task

FOLDER = Path(pgonly_django.__file__).resolve().parent.parent.name
AT_ONCE = Backoff(base=timedelta(0), cap=timedelta(0))


def mark(key: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO tests_mark (key) VALUES (%s)", [f"{key} {FOLDER}"])


@task(atomic=True, max_attempts=20, backoff=AT_ONCE)
def once(key: str, seconds: float) -> str:
    mark(key)
    time.sleep(seconds)
    return FOLDER


@task(atomic=True, max_attempts=20, backoff=AT_ONCE, concurrency_key="one at a time")
def once_alone(key: str, seconds: float) -> str:
    mark(key)
    time.sleep(seconds)
    return FOLDER


@task(takes_context=True)
def in_two_steps(context, key: str) -> list[str]:
    """Its second step ends once somebody has marked "go on"."""
    context.save_checkpoint({"begun by": context.checkpoint["begun by"] if context.checkpoint else FOLDER})
    context.step("first", mark, f"{key}:first")
    for _ in context.iterate(["second"]):
        mark(f"{key}:second")
        while not _may_go_on():
            time.sleep(0.02)
    return [context.checkpoint["begun by"], FOLDER]


def _may_go_on() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM tests_mark WHERE key = 'go on'")
        return cursor.fetchone() is not None
