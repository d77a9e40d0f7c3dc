from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from pgonly_django.cache.keys import as_regex, escape_glob


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
        ("a.b", ["a.b"]),
        ("a_b", ["a_b"]),
        ("100%", ["100%"]),
        (r"star\*", ["star*"]),
        ("ét?", ["été"]),
        ("(", []),
        (r"user:[a\-2]*", ["user:22"]),
        ("user:[3-1]", ["user:1"]),
        ("user:[1", ["user:1"]),
        ("user:[", []),
        ("user:[]*", []),
        ("user:[^]", ["user:1"]),
        ("user:1\\", []),
        ("[[:alpha:]]*", []),
        ("\ud800*", []),
        ("user:*\0", []),
        ("user:[\ud800\0 1]", ["user:1"]),
    ],
)
def test_keys_by_pattern(cache, pattern, expected):
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


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0*?[]\\"), max_size=20))
def test_a_pattern_without_special_characters_matches_itself_only(text):
    import re

    assert re.fullmatch(as_regex(text)[1:-1], text, re.DOTALL)
    assert not re.fullmatch(as_regex(text)[1:-1], text + "x", re.DOTALL)


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


SPECIAL = "*?[]^-\\"
# What PostgreSQL gives a meaning to in a regular expression, letters, and what it cannot hold.
plain = ":.()|+{}$=#d1aBcz é日\n"
patterns = st.text(alphabet=SPECIAL * 3 + plain + "\0\ud800", max_size=12)


def redis_matches(pattern, text):
    """Redis's rules, one character at a time."""
    if not pattern:
        return not text
    head, rest = pattern[0], pattern[1:]
    if head == "*":
        return any(redis_matches(rest, text[start:]) for start in range(len(text) + 1))
    if not text:
        return False
    if head == "[":
        found, rest = redis_class(rest, text[0])
    elif head == "\\" and rest:
        found, rest = rest[0] == text[0], rest[1:]
    else:
        found = head in ("?", text[0])
    return found and redis_matches(rest, text[1:])


def redis_class(pattern, character):
    """Whether the class matches, and what follows it."""
    negated, found = pattern.startswith("^"), False
    pattern = pattern[negated:]
    while pattern and pattern[0] != "]":
        if pattern[0] == "\\" and len(pattern) > 1:
            found, pattern = found or pattern[1] == character, pattern[2:]
        elif len(pattern) > 2 and pattern[1] == "-":
            low, high = sorted((pattern[0], pattern[2]))
            found, pattern = found or low <= character <= high, pattern[3:]
        else:
            found, pattern = found or pattern[0] == character, pattern[1:]
    return found != negated, pattern[1:]


@pytest.mark.django_db
@given(patterns, st.lists(st.text(alphabet=SPECIAL + plain, max_size=6), min_size=5, max_size=20))
def test_a_glob_matches_what_redis_matches(pattern, texts):
    with connection.cursor() as cursor:
        cursor.execute("SELECT array_agg(t ~ %s) FROM unnest(%s::text[]) AS t", [as_regex(pattern), texts])
        (found,) = cursor.fetchone()
    assert dict(zip(texts, found, strict=True)) == {text: redis_matches(pattern, text) for text in texts}


@pytest.mark.django_db
@given(st.text(alphabet=SPECIAL + plain + "\0\ud800"))
def test_an_escaped_text_matches_itself_only(text):
    assert redis_matches(escape_glob(text), text)
    assert not redis_matches(escape_glob(text), f"{text}a")


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
        lambda: cache.transactional().set("key", 1, tags="project:7"),
        lambda: cache.transactional().add("key", 1, tags="project:7"),
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
