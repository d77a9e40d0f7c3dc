from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests import children
from tests.children import results_of
from tests.sql import sql

FOR_THE_PARENT = {"parent": {"concurrent": 1}}


@pytest.fixture
def inside(transactional_db):
    """Counts who is inside of a limiter; reads (most at a time, uses)."""
    sql("CREATE TABLE tests_inside AS SELECT 0 AS n, 0 AS most, 0 AS uses")
    yield lambda: sql("SELECT most, uses FROM tests_inside")[0]
    sql("DROP TABLE tests_inside")


def start_crowd(
    job: str, count: int, limiters: dict[str, Any], pool_size: int = 1, **arguments: Any
) -> subprocess.Popen[str]:
    limiters = {**FOR_THE_PARENT, **limiters}
    given = job, count, arguments, limiters, pool_size
    return children.start_crowd("tests.limits.crowd", *given, settings=children.OF_WORKERS)


@pytest.fixture
def crowd(transactional_db):
    """Run a job of tests/limits/crowd.py in many processes; the results of all."""
    return lambda *given, **arguments: results_of(start_crowd(*given, **arguments))
