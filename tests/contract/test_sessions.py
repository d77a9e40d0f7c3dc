from __future__ import annotations

import pytest

from tests.contract import reasons
from tests.contract.running import run_suite

pytestmark = pytest.mark.slow


def test_djangos_own_session_tests_pass_but_for_those_that_read_the_key_from_the_row():
    ran, skips = run_suite("session")
    assert ran > 200
    assert len(skips) == 7
    assert set(skips) == reasons.SESSION
