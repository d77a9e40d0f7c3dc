from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import pytest

from pgonly_django.models import CacheEntry
from tests import children
from tests.children import results_of

# A busy machine takes longer for one example than hypothesis would allow.
hypothesis.settings.register_profile("without a deadline", deadline=None)
hypothesis.settings.load_profile("without a deadline")


# Of all entries whose keys are "key:" and a number, and which have the tag "tag".
DELETIONS = {
    "delete_many": lambda cache: cache.delete_many([f"key:{number}" for number in range(1100)]),
    "delete_pattern": lambda cache: cache.delete_pattern("k*"),
    "delete_tags": lambda cache: cache.delete_tags("tag"),
    "clear_prefix": lambda cache: cache.clear_prefix(":1:key"),
    "clear": lambda cache: cache.clear(),
}


@pytest.fixture
def crowd(transactional_db) -> Callable[..., list[Any]]:
    """Run a job of tests/cache/crowd.py in many processes; the results of all."""
    return lambda *given, **arguments: results_of(start_crowd(*given, **arguments))


def start_crowd(
    job: str, count: int, options: dict[str, Any] | None = None, **arguments: Any
) -> subprocess.Popen[str]:
    return children.start_crowd("tests.cache.crowd", job, count, arguments, options or {})


def expire_all(model=CacheEntry):
    minute = int(time.time() // 60) - 10
    model.objects.update(expires_at="2020-01-01T00:00:00Z", prune_minute=minute)


def expire_by(seconds):
    CacheEntry.objects.update(expires_at=datetime.now(UTC) - timedelta(seconds=seconds))
