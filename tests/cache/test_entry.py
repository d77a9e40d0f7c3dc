"""Several statements write entries. None of them may leave anything of the entry that was there before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pgonly_django.models import CacheEntry

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
# In every column what no write of this test leaves there. A new column needs a line here.
FOREIGN = {
    "value": b"foreign",
    "number": 4711,
    "codec": 99,
    "expires_at": LONG_AGO,
    "prune_minute": 1,
    "tags": ["foreign"],
    "claim": 4711,
    "claimed_until": LONG_AGO,
}
WRITES = {
    "set": lambda cache: cache.set("key", "mine", 600, tags=["tag"]),
    "set of an integer": lambda cache: cache.set("key", 5, 600),
    "add": lambda cache: cache.add("key", "mine", 600, tags=["tag"]),
    "set_many": lambda cache: cache.set_many({"key": "mine"}, 600, tags=["tag"]),
    "set_many of an integer": lambda cache: cache.set_many({"key": 5}, 600),
    "get_or_set": lambda cache: cache.get_or_set("key", "mine", 600, tags=["tag"]),
    "get_or_set of an integer": lambda cache: cache.get_or_set("key", 5, 600),
}


def test_every_column_is_known_here():
    assert {"key", *FOREIGN} == {field.name for field in CacheEntry._meta.concrete_fields}


@pytest.mark.parametrize("bounds", [{}, {"MAX_ENTRIES": 1000}], ids=["unbounded", "bounded"])
class TestAWrite:
    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
    def test_leaves_nothing_of_what_was_there(self, make_cache, write, bounds):
        assert_same(*(written(make_cache(**bounds), write, before) for before in (FOREIGN, None)))

    @pytest.mark.parametrize("value", ["mine", 5])
    def test_of_set_with_xx_leaves_nothing_either(self, make_cache, value, bounds):
        live = {**FOREIGN, "expires_at": datetime.now(UTC) + timedelta(days=1)}
        over = written(make_cache(**bounds), lambda cache: cache.set("key", value, 600, xx=True), live)
        assert_same(over, written(make_cache(**bounds), lambda cache: cache.set("key", value, 600), None))


def test_a_claim_adds_its_tags_to_those_of_the_stale_value(cache):
    """The value may be shown stale until it is replaced: a deletion by a tag of either ends both."""

    def compute():
        row = CacheEntry.objects.values().get()
        kept = {**FOREIGN, "tags": ["tag"]}
        for changed in ("key", "prune_minute", "claim", "claimed_until"):
            assert row.pop(changed) != kept.pop(changed, None)
        assert {**row, "value": bytes(row["value"]), "tags": kept["tags"]} == kept
        assert row["tags"] == ["foreign", f"{cache.store.namespace}tag"]

    written(cache, lambda cache: cache.get_or_set("key", compute, tags=["tag"]), FOREIGN)


def test_a_sum_replaces_the_value_and_keeps_the_rest(cache):
    live = {**FOREIGN, "value": None, "codec": 0, "expires_at": datetime.now(UTC) + timedelta(days=1)}
    row = written(cache, lambda cache: cache.incr("key", 0.5), live)
    assert cache.get("key") == 4711.5
    for changed in ("value", "number", "codec", "key"):
        assert row.pop(changed) != live.pop(changed, "no key")
    assert row == live


def written(cache, write, before):
    """The row of `key` after the write, where `before` stood in it."""
    if before:
        CacheEntry.objects.create(key=cache.stored_key("key", None).decode(), **before)
    write(cache)
    return CacheEntry.objects.of(cache.store.location).values().get()


def assert_same(one, other):
    """But for the key, and for the time that passed between the two."""
    assert abs(one.pop("expires_at") - other.pop("expires_at")) < timedelta(minutes=1)
    assert abs(one.pop("prune_minute") - other.pop("prune_minute")) <= 1
    tags = [[tag.rpartition(":")[2] for tag in row.pop("tags") or ()] for row in (one, other)]
    assert tags[0] == tags[1]
    del one["key"], other["key"]
    assert one == other
