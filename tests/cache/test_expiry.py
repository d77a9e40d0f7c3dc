from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


def test_more_than_the_calendar_holds_is_for_ever(cache):
    cache.set("key", 1, timeout=10**15)
    assert cache.ttl("key") is None


def test_expire_at_takes_any_moment(cache):
    cache.set("key", 1)
    assert cache.expire_at("key", 1e15)
    assert cache.ttl("key") is None
    assert cache.expire_at("key", -1e15)
    assert cache.get("key") is None


def test_timeouts_may_be_timedeltas_and_of_any_length(cache):
    cache.set("key", 1, timedelta(minutes=5))
    assert 295 < cache.ttl("key") <= 300
    assert cache.expire("key", timedelta(hours=1))
    assert cache.pexpire("key", timedelta(hours=2))
    assert 7100 < cache.ttl("key") <= 7200
    for far in (9e10, 1.2e11, 1e13, 1e300, float("inf"), timedelta.max):
        cache.set("key", 1, far)
        assert cache.touch("key", far)
        assert cache.get_or_set(f"far:{far}", lambda: 2, far, stale=1e15) == 2
        assert cache.get("key") == 1
    assert cache.ttl("key") is None


def test_times_to_live(cache):
    cache.set("key", 1, timeout=None)
    assert cache.ttl("key") is None
    assert cache.ttl("missing") == 0
    assert cache.expire("key", 100)
    assert cache.ttl("key") == 100
    assert 99_000 < cache.pttl("key") <= 100_000
    assert cache.expire_at("key", datetime.now(UTC) + timedelta(seconds=500))
    assert 490 < cache.ttl("key") <= 500
    assert cache.expire_at("key", (datetime.now(UTC) + timedelta(seconds=50)).timestamp())
    assert 40 < cache.ttl("key") <= 50
    in_a_minute = (datetime.now(UTC) + timedelta(seconds=60)).timestamp() * 1000
    assert cache.pexpire_at("key", in_a_minute)
    assert 50 < cache.ttl("key") <= 60
    assert asyncio.run(cache.apexpire_at("key", in_a_minute + 60_000))
    assert 110 < cache.ttl("key") <= 120
    assert cache.pexpire("key", 20_000)
    assert cache.ttl("key") == 20
    assert cache.persist("key")
    assert not cache.persist("key")
    assert cache.ttl("key") is None
    assert not cache.expire("missing", 1)
    assert not cache.expire_at("missing", datetime.now(UTC))
    assert cache.expire_at("key", datetime.now(UTC) - timedelta(seconds=1))
    assert cache.get("key") is None


def test_get_and_touch_reads_and_prolongs(cache):
    cache.set("key", "value", timeout=10)
    assert cache.get_and_touch("key", timeout=1000) == "value"
    assert cache.ttl("key") > 900
    assert cache.get_and_touch("missing", "default") == "default"
