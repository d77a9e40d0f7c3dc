"""Real processes on one key."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_eight_processes_count_without_losing_one(crowd, make_cache):
    make_cache("crowd").set("counter", 0)
    crowd("incr", 8, times=2_500)
    assert make_cache("crowd").get("counter") == 20_000


def test_of_fifty_processes_that_add_one_wins(crowd, make_cache):
    answers = crowd("add", 50)
    assert sorted(answers) == [False] * 49 + [True]


def test_writes_of_many_keys_in_every_order_never_deadlock(crowd):
    rounds = crowd("write_many", 6, seconds=2)
    assert len(rounds) == 6
    assert all(rounds)
