from __future__ import annotations

import asyncio

import pytest


def test_set_with_nx_writes_only_where_there_is_none(cache):
    assert cache.set("key", 1, nx=True)
    assert not cache.set("key", 2, nx=True)
    assert cache.get("key") == 1


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("user:*", ["user:1", "user:22"]),
        ("user:?", ["user:1"]),
        ("user:[12]*", ["user:1", "user:22"]),
        ("user:[^1]*", ["user:22"]),
        ("*", ["100%", "a.b", "a_b", "axb", "star*", "user:1", "user:22", "été"]),
        ("a_b", ["a_b"]),
        (r"star\*", ["star*"]),
        ("ét?", ["été"]),
        (r"user:[a\-2]*", ["user:22"]),
        ("user:[3-1]", ["user:1"]),
        ("user:[1", ["user:1"]),
    ],
)
def test_keys_by_pattern(cache, pattern, expected):
    """Which keys a pattern matches is in test_globs.py."""
    names = ["user:1", "user:22", "a.b", "a_b", "axb", "100%", "star*", "été"]
    cache.set_many(dict.fromkeys(names, 1))
    cache.set("user:1", 1, version=2)
    assert cache.keys(pattern) == expected
    assert cache.delete_pattern(pattern) == len(expected)
    assert sorted(cache.get_many(names)) == sorted(set(names) - set(expected))
    assert cache.get("user:1", version=2) == 1


def test_keys_and_patterns_under_a_prefix_with_special_characters(make_cache):
    cache = make_cache(KEY_PREFIX="pre*[fix")
    cache.set_many({"a": 1, "b": 1})
    assert cache.keys("*") == ["a", "b"]
    assert cache.delete_pattern("*") == 2


def test_iter_keys_fetches_in_batches_and_delete_pattern_deletes_in_batches(cache):
    names = [f"key:{number:03}" for number in range(25)]
    cache.set_many(dict.fromkeys(names, 1))
    assert list(cache.iter_keys("key:*", itersize=10)) == names
    assert cache.delete_pattern("key:0[0-1]*", itersize=7) == 20
    assert len(cache.keys("*")) == 5


def test_delete_tags_deletes_those_that_have_one_of_the_tags_in_this_cache_only(make_cache):
    cache, other = make_cache(), make_cache()
    cache.set("a", 1, tags=["project:7"])
    cache.set("b", 2, tags=["project:7", "user:1"])
    cache.set_many({"c": 3, "d": 4}, tags=["user:2"])
    cache.add("e", 5, tags=["user:3"])
    cache.set("plain", 6)
    other.set("a", 1, tags=["project:7"])
    assert cache.delete_tags("project:7", "user:3") == 3
    assert cache.get_many(["a", "b", "c", "d", "e", "plain"]) == {"c": 3, "d": 4, "plain": 6}
    assert other.get("a") == 1


def test_a_set_without_tags_takes_them_away(cache):
    cache.set("key", 1, tags=["tag"])
    cache.set("key", 2)
    assert cache.delete_tags("tag") == 0
    assert cache.get("key") == 2


def test_a_prefix_that_no_stored_key_has_clears_nothing(make_cache):
    cache = make_cache(ON_ERROR="raise")
    cache.set_many({"a": 1, "a\0b": 1, "a\ud800b": 1})
    assert cache.clear_prefix("\0") == cache.clear_prefix(":1:\ud800") == cache.clear_prefix(":1:a\0") == 0
    assert cache.clear_prefix(":1:a") == 3


@pytest.mark.parametrize("tag", ["a\0b", "a\ud800", "x" * 5000])
def test_a_tag_may_be_any_text(make_cache, tag):
    cache = make_cache(ON_ERROR="raise")
    cache.set("key", 1, tags=[tag])
    cache.set("other", 1, tags=[f"{tag}?"])
    assert cache.delete_tags(tag) == 1
    assert cache.get_many(["key", "other"]) == {"other": 1}


def test_a_text_in_place_of_a_list_of_tags_is_refused(cache):
    for write in (
        lambda: cache.set("key", 1, tags="project:7"),
        lambda: cache.add("key", 1, tags="project:7"),
        lambda: cache.set_many({"key": 1}, tags="project:7"),
        lambda: cache.get_or_set("key", 1, tags="project:7"),
    ):
        with pytest.raises(
            TypeError, match=r"must be a list of texts, got 'project:7'. Give \['project:7'\]"
        ):
            write()
    assert cache.get("key") is None


def test_delete_pattern_with_another_prefix_than_the_caches_own(make_cache):
    own, bare = make_cache("shared", KEY_PREFIX="own*"), make_cache("shared")
    for cache in (own, bare):
        cache.set_many({"user:1": 1, "page:1": 1})
        cache.set("user:2", 1, version=2)
    assert own.delete_pattern("user:*", prefix="") == 1
    assert own.keys("*") == ["page:1", "user:1"]
    assert bare.keys("*") == ["page:1"]
    assert asyncio.run(bare.adelete_pattern("*", version=2, prefix="own*")) == 1
    assert (own.get("user:2", version=2), bare.get("user:2", version=2)) == (None, 1)
    assert bare.delete_pattern("*", prefix="o*") == 0  # a prefix is no pattern
    assert own.delete_pattern("*") == 2
