"""The worker prunes the caches that are no longer written to."""

from __future__ import annotations

import pytest
from django.db import transaction

from pgonly_django.cache.prune import prune_expired
from pgonly_django.models import CacheEntry, CacheLock, CacheUsage, DurableCacheEntry
from tests.cache.conftest import expire_all
from tests.waiting import beside


def test_prune_expired_deletes_a_batch_of_all_caches_and_says_how_many(make_cache):
    one, durable = make_cache(), make_cache(DURABLE=True)
    one.set_many({str(number): 1 for number in range(30)})
    durable.set_many({str(number): 1 for number in range(30)})
    CacheLock.objects.create(name="dead", token=1, expires_at="2020-01-01T00:00:00Z")
    expire_all()
    expire_all(DurableCacheEntry)
    one.set("live", 1)
    assert [prune_expired("default", limit=25) for _ in range(4)] == [25, 25, 11, 0]
    assert CacheEntry.objects.count() == 1
    assert not CacheLock.objects.exists()


def test_what_the_worker_pruned_is_not_evicted_for_once_more(make_cache):
    cache, unbounded = make_cache(MAX_ENTRIES=1000), make_cache()
    cache.set_many({f"old:{number}": b"x" * 100 for number in range(1000)})
    unbounded.set_many({str(number): 1 for number in range(10)})
    expire_all()
    assert prune_expired("default", limit=5000) == 1010
    usage = CacheUsage.objects.get(name__contains=cache.store.namespace)
    assert (usage.entries, usage.bytes) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_prune_expired_waits_for_nobody(cache):
    cache.set_many({"locked": 1, "free": 1})
    expire_all()
    with transaction.atomic():
        list(CacheEntry.objects.select_for_update().filter(key__endswith=":locked"))
        with beside(prune_expired, "default") as pruned:
            pass
        assert pruned == [1]
    assert prune_expired("default") == 1
