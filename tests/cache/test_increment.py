from __future__ import annotations


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
