from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.db import connection

from pgonly_django.models import CacheEntry

ROOT = Path(__file__).resolve().parents[2]

# A busy machine takes longer for one example than hypothesis would allow.
hypothesis.settings.register_profile("without a deadline", deadline=None)
hypothesis.settings.load_profile("without a deadline")


@pytest.fixture
def crowd(transactional_db) -> Callable[..., list[Any]]:
    """Run a job of tests/cache/crowd.py in many processes; the results of all."""

    def run(job: str, count: int, *, options: dict[str, Any] | None = None, **arguments: Any) -> list[Any]:
        process = start_crowd(job, count, options, **arguments)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]

    return run


def start_crowd(
    job: str, count: int, options: dict[str, Any] | None = None, **arguments: Any
) -> subprocess.Popen[str]:
    database = connection.settings_dict["NAME"]
    command = [sys.executable, "-m", "tests.cache.crowd", job, str(count), database]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    return subprocess.Popen(
        [*command, json.dumps(arguments), json.dumps(options or {})],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def expire_all(model=CacheEntry):
    minute = int(time.time() // 60) - 10
    model.objects.update(expires_at="2020-01-01T00:00:00Z", prune_minute=minute)


def expire_by(seconds):
    CacheEntry.objects.update(expires_at=datetime.now(UTC) - timedelta(seconds=seconds))
