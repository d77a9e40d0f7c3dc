from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgonly_django.cache.globs import as_regex
from pgonly_django.models import CacheEntry
from tests.sql import value

SPECIAL = "*?[]^-\\"


# What PostgreSQL gives a meaning to in a regular expression, letters, and what it cannot hold.
plain = ":.()|+{}$=#d1aBcz é日\n"


patterns = st.text(alphabet=SPECIAL * 3 + plain, max_size=12)


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
    found = value("SELECT array_agg(t ~ %s) FROM unnest(%s::text[]) AS t", as_regex(pattern), texts)
    assert dict(zip(texts, found, strict=True)) == {text: redis_matches(pattern, text) for text in texts}


@pytest.mark.parametrize("character", ["\0", "\ud800"])
def test_a_pattern_with_what_no_key_has_matches_none(cache, character):
    cache.set("key", 1)
    assert cache.keys(f"*{character}") == cache.keys(f"[a-z{character}]*") == []
    assert cache.delete_pattern(f"k[^{character}]*") == 0


@pytest.mark.parametrize(
    "key",
    ["k" * 10_000, "nul\0byte", "\N{PILE OF POO}", "l\ud800ne surrogate", "", " ", "é" * 600, "a#sha256:b"],
)
def test_any_key_works(cache, key):
    assert cache.add(key, "value")
    assert cache.get(key) == "value"
    assert cache.get_many([key]) == {key: "value"}
    assert cache.delete(key)
    assert cache.get(key) is None


def test_long_keys_that_differ_at_their_end_are_different(cache):
    cache.set("k" * 5000 + "a", 1)
    assert cache.get("k" * 5000 + "b") is None


def test_a_key_that_looks_like_a_shortened_one_is_another(cache):
    long_key = "k" * 5000
    cache.set(long_key, "long")
    stored = CacheEntry.objects.get().name.removeprefix(":1:")
    assert cache.get(stored) is None
