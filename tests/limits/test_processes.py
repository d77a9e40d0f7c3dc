"""Many processes at one limiter."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.process


def test_of_a_hundred_users_in_20_processes_never_more_than_5_are_inside(crowd, inside):
    found = crowd("use", 20, {"deepseek": {"concurrent": 5}}, users=5, seconds=8, hold=0.1)
    most, uses = inside()
    assert most == 5
    assert uses == sum(each["uses"] for each in found)
