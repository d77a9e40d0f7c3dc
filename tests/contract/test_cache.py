from __future__ import annotations

import pytest

from tests.contract import reasons
from tests.contract.running import run_suite

pytestmark = pytest.mark.slow


def test_djangos_own_cache_tests_pass_but_for_those_that_want_less():
    ran, skips = run_suite("cache", "--parallel=2")
    assert ran > 150
    assert len(skips) == 12
    assert set(skips) == reasons.CACHE
