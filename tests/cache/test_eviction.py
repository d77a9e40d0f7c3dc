"""Expired entries go and bounds hold without any worker: writes do the work."""

from __future__ import annotations

import pytest

from pgonly_django.cache.counters import WRITES_PER_CLEANING
from pgonly_django.cache.eviction import PRUNE_LIMIT
from pgonly_django.models import CacheEntry, CacheUsage
from tests.cache.conftest import expire_all
from tests.sql import sql


def test_writes_prune_more_than_they_add(cache):
    cache.set_many({f"old:{number}": 1 for number in range(PRUNE_LIMIT + 50)})
    expire_all()
    for number in range(2 * WRITES_PER_CLEANING):
        cache.set(f"new:{number}", 1)
    assert CacheEntry.objects.filter(key__contains="old:").count() == 0
    assert CacheEntry.objects.filter(key__contains="new:").count() == 2 * WRITES_PER_CLEANING


def test_max_entries_holds_within_a_few_percent_and_the_oldest_expiring_go_first(make_cache):
    cache = make_cache(MAX_ENTRIES=1000)
    for number in range(3000):
        cache.set(f"key:{number}", number, timeout=60 * (1 + number))
        if number % 250 == 0:
            assert CacheEntry.objects.count() <= 1030
    assert 950 <= CacheEntry.objects.count() <= 1030
    assert cache.get("key:2999") == 2999
    assert cache.get("key:1900") is None


def test_max_bytes_holds_within_a_few_percent(make_cache):
    cache = make_cache(MAX_BYTES=1_000_000)
    for number in range(400):
        cache.set(f"key:{number}", b"x" * 10_000)
    size = sum(entry.size + 100 for entry in CacheEntry.objects.with_size())
    assert 900_000 < size < 1_050_000


@pytest.mark.slow
@pytest.mark.process
def test_bounds_hold_under_four_processes_that_write(crowd):
    crowd("fill", 4, options={"MAX_BYTES": 2_000_000}, seconds=2, size=1000)
    assert sum(entry.size + 120 for entry in CacheEntry.objects.with_size()) < 2_200_000


def test_bounds_of_one_cache_evict_nothing_of_another(make_cache):
    bystander, bounded = make_cache(), make_cache(MAX_ENTRIES=10)
    bystander.set_many({str(number): number for number in range(200)}, timeout=1)
    bounded.set_many({str(number): number for number in range(200)}, timeout=100)
    assert CacheEntry.objects.of(bystander.store.namespace[:-1]).count() == 200
    assert CacheEntry.objects.of(bounded.store.namespace[:-1]).count() == 10


@pytest.mark.slow
def test_max_bytes_holds_where_few_keys_grow(make_cache):
    cache = make_cache(MAX_BYTES=1_000_000)
    for size in range(1000, 60_000, 1000):
        for number in range(50):
            cache.set(f"key:{number}", b"x" * size)
    for round_number in range(10):
        cache.set_many({f"many:{number}": b"x" * 10_000 * round_number for number in range(30)})
        assert CacheUsage.objects.get().bytes < 1_300_000
    assert sum(entry.size + 100 for entry in CacheEntry.objects.with_size()) < 1_300_000


def test_what_another_process_cleared_is_not_evicted_for_once_more(make_cache, monkeypatch):
    cache = make_cache("shared", MAX_ENTRIES=1000)
    cache.set_many({f"old:{number}": 1 for number in range(1000)})
    make_cache("shared", MAX_ENTRIES=1000).clear()
    cache.set_many({f"new:{number}": 1 for number in range(300)})
    assert CacheEntry.objects.count() == 300
    assert CacheUsage.objects.get().entries == 300


def test_numbers_that_are_far_from_true_are_counted_anew_when_nothing_is_found_to_evict(make_cache):
    cache = make_cache(MAX_ENTRIES=1000)
    cache.set_many({f"old:{number}": 1 for number in range(1000)})
    CacheEntry.objects.all().delete()
    CacheUsage.objects.update(entries=5000)
    cache.set_many({f"new:{number}": 1 for number in range(30)})
    assert CacheUsage.objects.get().entries < 1000


@pytest.mark.slow
@pytest.mark.process
def test_bounds_hold_under_processes_that_write_a_little_and_end(crowd):
    for _ in range(3):
        crowd("write_few", 50, options={"MAX_ENTRIES": 1250}, times=20)
    assert CacheEntry.objects.count() < 1750


def test_a_recount_puts_wrong_numbers_right(make_cache):
    cache = make_cache(MAX_ENTRIES=5000)
    cache.set_many({str(number): number for number in range(500)})
    CacheUsage.objects.update(entries=4_000_000, writes=10**9)
    cache.set_many({str(number): number for number in range(100)})
    assert CacheUsage.objects.get().entries == 500
    assert CacheEntry.objects.count() == 500


def test_cleaning_is_served_by_its_index(cache):
    cache.set_many({str(number): 1 for number in range(5000)})
    sql("ANALYZE pgonly_cache")
    statement = cache.store.eviction.PRUNE[0].positional.decode().replace("$1", "'x'").replace("$2", "100")
    assert "pgonly_cache_prune" in str(sql(f"EXPLAIN {statement}"))


@pytest.mark.parametrize("bound", [{"MAX_ENTRIES": 10}, {"MAX_BYTES": 2000}])
def test_the_claim_of_a_computation_is_not_evicted(make_cache, bound):
    cache = make_cache(**bound)

    def compute():
        cache.set_many({str(number): 1 for number in range(200)}, 1000)
        for number in range(50):
            cache.set(f"more:{number}", 1, 1000)
        return "computed"

    assert cache.get_or_set("key", compute, 10_000) == "computed"
    assert cache.get("key") == "computed"
    assert CacheEntry.objects.count() < 20
