"""What a process counts, and when it says so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pgonly_django.cache import eviction
from pgonly_django.models import CacheUsage
from tests.forks import told_by_a_child


def test_the_threads_of_a_process_count_together(make_cache):
    def read():
        cache = make_cache("shared")
        for _ in range(100):
            cache.get("missing")

    with ThreadPoolExecutor(10) as pool:
        for _ in range(10):
            pool.submit(read)
    assert CacheUsage.objects.get(name__contains="shared").misses == 1000


def test_the_writers_of_a_process_take_turns_at_cleaning(make_cache):
    counted = make_cache(MAX_ENTRIES=1000).store.counters
    due = [counted.wrote(entries=1, size=100, written=100) for _ in range(200)]
    assert sum(due) <= 200 / 20 + 1


def test_a_forked_child_counts_from_nought_and_waits_for_no_lock_of_its_parent(make_cache):
    counted = make_cache().store.counters
    counted.wrote(entries=5, size=500, written=500)

    def count():
        counted.wrote(entries=1, size=100, written=100)
        return f"{counted.counts.writes} {counted.counts.bytes}"

    with counted.lock:
        assert told_by_a_child(count) == "1 100"
    assert (counted.counts.writes, counted.counts.bytes) == (1, 500)


def test_a_child_forked_while_a_thread_made_a_cache_makes_one_too(make_cache):
    with eviction._creating:
        assert told_by_a_child(lambda: make_cache(MAX_ENTRIES=50).store.counters.bounded) == "True"
