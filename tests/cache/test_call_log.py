"""At DEBUG the cache says what each call found and did."""

from __future__ import annotations

import logging

import pytest

from pgonly_django.cache import PostgresCache
from tests.waiting import PATIENT


@pytest.fixture
def cache(transactional_db):
    cache = PostgresCache("call log", {"OPTIONS": PATIENT})
    cache.clear()
    return cache


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.DEBUG, "pgonly_django.cache")

    def read():
        records = [r for r in caplog.records if getattr(r, "event", "").startswith("cache.")]
        caplog.clear()
        return [
            (r.event.removeprefix("cache."), getattr(r, "key", None) or getattr(r, "keys", None))
            for r in records
        ]

    read()
    return read


def test_a_get_is_a_hit_or_a_miss(cache, said):
    cache.get("k")
    cache.set("k", "v")
    cache.get("k")
    assert said() == [("miss", ":1:k"), ("set", ":1:k"), ("hit", ":1:k")]


def test_a_set_says_how_large_and_for_how_long(cache, said, caplog):
    cache.set("k", "v" * 100, timeout=60)
    (message,) = caplog.messages
    assert message.startswith("set ':1:k' in call log: ")
    assert message.endswith(" bytes, for 60 s")


def test_a_write_that_does_not_write_says_so(cache, said):
    cache.add("k", "v")
    cache.add("k", "w")
    cache.set("other", "v", xx=True)
    assert said() == [("set", ":1:k"), ("keep", ":1:k"), ("keep", ":1:other")]


def test_calls_for_many_keys_have_one_line_for_hits_and_one_for_misses(cache, said):
    cache.set_many({"a": 1, "b": 2})
    cache.get_many(["a", "b", "c"])
    cache.delete_many(["a", "c"])
    assert said() == [
        ("set", [":1:a", ":1:b"]),
        ("hit", [":1:a", ":1:b"]),
        ("miss", ":1:c"),
        ("delete", [":1:a", ":1:c"]),
    ]


def test_a_deletion_says_whether_there_was_one(cache, said, caplog):
    cache.set("k", 1)
    cache.delete("k")
    cache.delete("k")
    assert said() == [("set", ":1:k"), ("delete", ":1:k"), ("delete", ":1:k")]
    cache.delete("k")
    assert caplog.messages == ["delete ':1:k' in call log: there was none"]


def test_get_or_set_is_a_miss_then_a_set_then_a_hit(cache, said):
    cache.get_or_set("k", lambda: 5)
    cache.get_or_set("k", lambda: 6)
    assert said() == [("miss", ":1:k"), ("set", ":1:k"), ("hit", ":1:k")]


def test_a_sum_and_a_pattern_are_named(cache, said):
    cache.set("n", 1)
    cache.incr("n", 4)
    cache.delete_pattern("n*")
    assert said() == [("set", ":1:n"), ("set", ":1:n"), ("delete", ":1:n*")]


def test_a_clear_is_told_at_info(cache, caplog):
    cache.set("k", 1)
    with caplog.at_level(logging.INFO, "pgonly_django.cache"):
        cache.clear()
    assert caplog.messages == ["The cache call log was cleared: 1 entries."]


def test_nothing_is_said_above_debug(cache, caplog):
    with caplog.at_level(logging.INFO, "pgonly_django.cache"):
        cache.set("k", 1)
        cache.get("k")
        cache.delete("k")
    assert caplog.records == []


def test_a_filter_that_raises_breaks_no_call(cache, said, capsys):
    logger = logging.getLogger("pgonly_django.cache")

    def broken(record):
        raise ValueError("no")

    logger.addFilter(broken)
    try:
        cache.set("k", 1)
        assert cache.get("k") == 1
    finally:
        logger.removeFilter(broken)
    assert "could not be logged" in capsys.readouterr().err
