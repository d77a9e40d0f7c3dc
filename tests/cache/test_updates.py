from __future__ import annotations

from datetime import UTC, datetime, timedelta


def test_timeouts_may_be_timedeltas(cache):
    cache.set("key", 1, timedelta(minutes=5))
    assert 295 < cache.ttl("key") <= 300
    assert cache.expire("key", timedelta(hours=1))
    assert cache.pexpire("key", timedelta(hours=2))
    assert 7100 < cache.ttl("key") <= 7200
    cache.set("key", 1, timedelta.max)
    assert cache.ttl("key") is None


def test_a_value_that_lives_and_is_shown_stale_for_thousands_of_years_is_stored(cache):
    for far in (9e10, timedelta.max):
        assert cache.get_or_set(f"until {far}", lambda: 2, far, stale=1e15) == 2
        assert cache.get(f"until {far}") == 2


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
    assert cache.pexpire_at("key", (datetime.now(UTC) + timedelta(seconds=60)).timestamp() * 1000)
    assert 50 < cache.ttl("key") <= 60
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


def test_incr_beyond_64_bits_goes_on(cache):
    cache.set("number", 2**63 - 1)
    assert cache.incr("number") == 2**63
    assert cache.incr("number", 2**80) == 2**63 + 2**80
    assert cache.get("number") == 2**63 + 2**80


def test_incr_keeps_the_expiry(cache):
    cache.set("number", 1, timeout=1000)
    cache.incr("number")
    assert 990 < cache.ttl("number") <= 1000


def test_incr_of_a_float_and_by_a_float(cache):
    cache.set("number", 1.5)
    assert cache.incr("number") == 2.5
    cache.set("number", 1)
    assert cache.incr("number", 0.5) == 1.5


def test_incr_adds_to_what_other_settings_have_written(make_cache):
    packed = make_cache("shared", COMPRESSOR="zlib", COMPRESS_ABOVE=1)
    plain, as_json = make_cache("shared"), make_cache("shared", SERIALIZER="json")
    packed.set_many({"fraction": 1.5, "large": 2**70})
    assert plain.incr("fraction", 2) == 3.5
    assert as_json.incr("fraction", 0.25) == 3.75
    assert plain.incr("large") == 2**70 + 1
