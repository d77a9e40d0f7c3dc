"""Expired entries go and bounds hold without any worker: writes pay for it."""

from __future__ import annotations

import os
import signal
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, transaction

from pgonly_django.cache.counters import WRITES_PER_CLEANING
from pgonly_django.cache.eviction import PRUNE_LIMIT
from pgonly_django.cache.prune import prune_expired
from pgonly_django.database.operation import run
from pgonly_django.models import CacheEntry, CacheLock, CacheUsage, DurableCacheEntry
from tests.waiting import wait_for


def expire_all(model=CacheEntry):
    minute = int(time.time() // 60) - 10
    model.objects.update(expires_at="2020-01-01T00:00:00Z", prune_minute=minute)


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


@pytest.mark.process
def test_bounds_hold_under_four_processes_that_write(crowd):
    crowd("fill", 4, options={"MAX_BYTES": 2_000_000}, seconds=3, size=1000)
    assert sum(entry.size + 120 for entry in CacheEntry.objects.with_size()) < 2_200_000


def test_bounds_of_one_cache_evict_nothing_of_another(make_cache):
    bystander, bounded = make_cache(), make_cache(MAX_ENTRIES=10)
    bystander.set_many({str(number): number for number in range(200)}, timeout=1)
    bounded.set_many({str(number): number for number in range(200)}, timeout=100)
    assert CacheEntry.objects.of(bystander.store.namespace[:-1]).count() == 200
    assert CacheEntry.objects.of(bounded.store.namespace[:-1]).count() == 10


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


@pytest.mark.process
def test_bounds_hold_under_processes_that_write_a_little_and_end(crowd):
    for _ in range(5):
        crowd("write_few", 50, options={"MAX_ENTRIES": 1250}, times=20)
    assert CacheEntry.objects.count() < 1750


def test_the_threads_of_a_process_count_together(make_cache):
    def read():
        cache = make_cache("shared")
        for _ in range(100):
            cache.get("missing")

    with ThreadPoolExecutor(10) as pool:
        for _ in range(10):
            pool.submit(read)
    assert CacheUsage.objects.get(name__contains="shared").misses == 1000


def test_a_recount_puts_wrong_numbers_right(make_cache):
    cache = make_cache(MAX_ENTRIES=5000)
    cache.set_many({str(number): number for number in range(500)})
    CacheUsage.objects.update(entries=4_000_000, writes=10**9)
    cache.set_many({str(number): number for number in range(100)})
    assert CacheUsage.objects.get().entries == 500
    assert CacheEntry.objects.count() == 500


def test_reads_are_counted(cache):
    cache.set("key", 1)
    for _ in range(750):
        cache.get("key")
    for _ in range(250):
        cache.get("missing")
    usage = CacheUsage.objects.get()
    assert (usage.hits, usage.misses) == (750, 250)


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
        assert in_another_thread(prune_expired, "default") == 1
    assert prune_expired("default") == 1


def in_another_thread(function, *arguments):
    def call():
        try:
            return function(*arguments)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(20)


def test_writing_much_removes_the_dead_rows_without_waiting_for_autovacuum(cache, monkeypatch):
    monkeypatch.setattr("pgonly_django.cache.eviction.VACUUM_BYTES", 100_000)
    before = vacuums()
    for number in range(4 * WRITES_PER_CLEANING):
        cache.set(f"key:{number % 8}", os.urandom(5_000))
    wait_for(lambda: vacuums() > before)


def vacuums():
    with connection.cursor() as cursor:
        cursor.execute("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'pgonly_cache'")
        return cursor.fetchone()[0]


def test_a_process_that_only_reads_takes_no_vacuum_away_from_those_that_write(cache, monkeypatch):
    monkeypatch.setattr("pgonly_django.cache.eviction.VACUUM_BYTES", 1)
    counted, eviction = cache.store.counters, cache.store.eviction
    before = vacuums()
    for number in range(4):
        counted.wrote(entries=0, size=0, written=10**9)
        run(eviction.flush())
        counted.read(hits=1, misses=0)
        run(eviction.flush())
        if number % 2:  # of two writes the second one finds that enough was written
            wait_for(lambda expected=before + (number + 1) // 2: vacuums() == expected)


def test_the_writers_of_a_process_take_turns_at_cleaning(make_cache):
    counted = make_cache(MAX_ENTRIES=1000).store.counters
    due = [counted.wrote(entries=1, size=100, written=100) for _ in range(200)]
    assert sum(due) <= 200 / 20 + 1


def test_cleaning_is_served_by_its_index(cache):
    cache.set_many({str(number): 1 for number in range(5000)})
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE pgonly_cache")
        statement = (
            cache.store.eviction.PRUNE[0].positional.decode().replace("$1", "'x'").replace("$2", "100")
        )
        cursor.execute(f"EXPLAIN {statement}")
        assert "pgonly_cache_prune" in str(cursor.fetchall())


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


def test_a_forked_child_counts_from_nought_and_waits_for_no_lock_of_its_parent(make_cache):
    counted = make_cache().store.counters
    counted.wrote(entries=5, size=500, written=500)
    heard, tell = os.pipe()
    with counted.lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: what servers do
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # ends the child where it waits for the lock
            counted.wrote(entries=1, size=100, written=100)
            os.write(tell, f"{counted.counts.writes} {counted.counts.bytes}".encode())
            os._exit(0)
    os.close(tell)
    assert os.read(heard, 100) == b"1 100"
    os.waitpid(child, 0)
    os.close(heard)
    assert (counted.counts.writes, counted.counts.bytes) == (1, 500)
