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


CALLS = {
    "get": (
        lambda cache: (cache.get("k"), cache.set("k", "v"), cache.get("k")),
        [("miss", ":1:k"), ("set", ":1:k"), ("hit", ":1:k")],
    ),
    "a write that does not write": (
        lambda cache: (cache.add("k", "v"), cache.add("k", "w"), cache.set("other", "v", xx=True)),
        [("set", ":1:k"), ("keep", ":1:k"), ("keep", ":1:other")],
    ),
    "many keys": (
        lambda cache: (
            cache.set_many({"a": 1, "b": 2}),
            cache.get_many(["a", "b", "c"]),
            cache.delete_many("ac"),
        ),
        [
            ("set", [":1:a", ":1:b"]),
            ("hit", [":1:a", ":1:b"]),
            ("miss", ":1:c"),
            ("delete", [":1:a", ":1:c"]),
        ],
    ),
    "delete": (
        lambda cache: (cache.set("k", 1), cache.delete("k"), cache.delete("k")),
        [("set", ":1:k"), ("delete", ":1:k"), ("delete", ":1:k")],
    ),
    "get_or_set": (
        lambda cache: (cache.get_or_set("k", lambda: 5), cache.get_or_set("k", lambda: 6)),
        [("miss", ":1:k"), ("set", ":1:k"), ("hit", ":1:k")],
    ),
    "a sum and a pattern": (
        lambda cache: (cache.set("n", 1), cache.incr("n", 4), cache.delete_pattern("n*")),
        [("set", ":1:n"), ("set", ":1:n"), ("delete", ":1:n*")],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_says_what_it_found_and_did(cache, said, name):
    calls, expected = CALLS[name]
    calls(cache)
    assert said() == expected


def test_a_set_says_how_large_and_for_how_long(cache, said, caplog):
    cache.set("k", "v" * 100, timeout=60)
    (message,) = caplog.messages
    assert message.startswith("set ':1:k' in call log: ")
    assert message.endswith(" bytes, for 60 s")


def test_a_deletion_says_whether_there_was_one(cache, said, caplog):
    cache.delete("k")
    assert caplog.messages == ["delete ':1:k' in call log: there was none"]


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
