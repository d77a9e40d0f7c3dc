from __future__ import annotations

import datetime as dt
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgonly_django.cache.entry import Codec, zstd
from pgonly_django.exceptions import CacheError
from pgonly_django.models import CacheEntry
from tests.interruptions import AbortError, Interrupted, aborted_once


class Reversed:
    """A serializer of one's own."""

    def dumps(self, value):
        return str(value).encode()[::-1]

    def loads(self, data):
        return data[::-1].decode()


class Gone:
    def __reduce__(self):
        return pickle.loads, (b"not a pickle",)


@given(
    st.recursive(st.none() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False), st.lists)
)
def test_every_value_comes_back_under_every_compressor(value):
    for compressor in (None, "zlib"):
        codec = Codec("pickle", compressor, 10)
        kind, number, data = codec.encode(value)
        assert (number if data is None else codec.decode(kind, data)) == value


def test_values_written_under_one_setting_are_read_under_another(make_cache):
    settings = [
        {},
        {"SERIALIZER": "json"},
        {"SERIALIZER": "json", "COMPRESSOR": "zlib", "COMPRESS_ABOVE": 10},
        {"COMPRESSOR": "zlib", "COMPRESS_ABOVE": 10},
        {"SERIALIZER": "tests.cache.test_codec.Reversed"},
        {"SERIALIZER": "tests.cache.test_codec.Reversed", "COMPRESSOR": "zlib", "COMPRESS_ABOVE": 1},
    ]
    caches = [make_cache("same", **each) for each in settings]
    for writer in caches:
        writer.set("key", "a text long enough to be compressed")
        assert [reader.get("key") for reader in caches] == ["a text long enough to be compressed"] * len(
            caches
        )


def test_only_what_is_above_the_size_is_compressed(make_cache):
    cache = make_cache(COMPRESSOR="zlib", COMPRESS_ABOVE=1000)
    cache.set_many({"short": "x" * 100, "long": "x" * 10_000})
    sizes = {entry.name[-4:]: entry.size for entry in CacheEntry.objects.with_size()}
    assert sizes["hort"] > 100
    assert sizes["long"] < 1000


def test_json_takes_what_django_takes(make_cache):
    cache = make_cache(SERIALIZER="json")
    cache.set("key", {"at": dt.date(2026, 1, 2), "list": (1, 2)})
    assert cache.get("key") == {"at": "2026-01-02", "list": [1, 2]}


def test_a_value_that_cannot_be_read_any_more_is_a_miss(cache, make_cache):
    cache.set("key", Gone())
    assert cache.get("key", "default") == "default"
    with pytest.raises(CacheError, match="cannot be read"):
        make_cache(cache.store.namespace[:-1], ON_ERROR="raise").get("key")


@pytest.mark.parametrize(
    "read",
    [
        lambda cache: cache.get("key"),
        lambda cache: cache.get_many(["key"])["key"],
        lambda cache: cache.get_or_set("key", pytest.fail),
        lambda cache: cache.get_and_touch("key"),
    ],
    ids=["get", "get_many", "get_or_set", "get_and_touch"],
)
def test_what_a_signal_handler_raises_while_a_value_is_loaded_is_raised_and_is_no_miss(cache, read):
    cache.set("key", Interrupted())
    with aborted_once(), pytest.raises(AbortError):
        read(cache)
    assert read(cache) == Interrupted()


def test_zstd_is_used_where_it_can_be_imported(make_cache):
    try:
        zstd()
    except ImportError as missing:
        pytest.skip(str(missing))
    cache = make_cache(COMPRESSOR="zstd", COMPRESS_ABOVE=10)
    cache.set("key", "x" * 10_000)
    assert cache.get("key") == "x" * 10_000
