from __future__ import annotations

import pytest
from django.db import transaction

from pgonly_django.exceptions import ValueTooLargeError
from pgonly_django.models import CacheEntry


def test_set_many_refuses_a_value_beyond_what_postgresql_holds(make_cache, monkeypatch):
    monkeypatch.setattr("pgonly_django.cache.store.FIELD_LIMIT", 1000)
    cache = make_cache()
    with pytest.raises(ValueTooLargeError, match="at most 1,000 bytes after serializing, got 5,0"):
        cache.set_many({"large": b"x" * 5000, "small": 1})
    assert cache.get_many(["large", "small"]) == {"small": 1}


def test_set_many_with_on_error_ignore_names_the_keys_that_are_not_stored(make_cache, caplog):
    cache = make_cache(
        ON_ERROR="ignore", TIMEOUT_SECONDS=0.5, POOL_SIZE=3
    )  # no other test fails fast in its pool
    data = {f"{number:04}": number for number in range(1500)}  # two statements
    cache.set("1400", "old")
    with transaction.atomic():
        list(CacheEntry.objects.select_for_update().filter(key__endswith=":1400"))
        lost = cache.set_many(data)
    assert lost == list(data)[1000:]
    stored = CacheEntry.objects.exclude(number=None).values_list("number", flat=True)
    assert set(range(1000)) <= set(stored)  # the second statement may still be done, once the row is free
    assert "continued without the database" in caplog.text
