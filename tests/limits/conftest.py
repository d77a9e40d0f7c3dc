from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

ROOT = Path(__file__).resolve().parents[2]
FOR_THE_PARENT = {"parent": {"concurrent": 1}}


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
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.process.worker_settings"}
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
