"""Writes vacuum, and so do large deletions."""

from __future__ import annotations

import os

import pytest

from pgonly_django.cache.counters import WRITES_PER_CLEANING
from pgonly_django.database.operation import run
from tests.cache.conftest import DELETIONS
from tests.sql import sql, value
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


def test_writing_much_removes_the_dead_rows_without_waiting_for_autovacuum(cache, monkeypatch):
    monkeypatch.setattr("pgonly_django.cache.eviction.VACUUM_BYTES", 100_000)
    before = vacuums()
    for number in range(4 * WRITES_PER_CLEANING):
        cache.set(f"key:{number % 8}", os.urandom(5_000))
    wait_for(lambda: vacuums() > before)


def vacuums():
    return value("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'pgonly_cache'")


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


@pytest.fixture
def without_autovacuum(transactional_db):
    sql("TRUNCATE pgonly_cache")
    sql("ALTER TABLE pgonly_cache SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)")
    yield
    sql("ALTER TABLE pgonly_cache RESET (autovacuum_enabled, toast.autovacuum_enabled)")


def on_disk():
    """Bytes of the table, with the large values."""
    return value("SELECT pg_table_size('pgonly_cache')")


def test_after_a_clear_others_have_the_space_at_once(cache, without_autovacuum):
    empty = on_disk()
    for number in range(100):
        cache.set(f"key:{number}", os.urandom(20_000))
    full = on_disk()
    assert full > empty + 2_000_000
    cache.clear()
    assert on_disk() < empty + 200_000


@pytest.mark.parametrize("how", ["delete_many", "delete_pattern", "delete_tags", "clear_prefix"])
def test_a_large_deletion_vacuums_behind_it(cache, without_autovacuum, monkeypatch, how):
    monkeypatch.setattr("pgonly_django.cache.eviction.VACUUM_BYTES", 1_000_000)
    cache.set_many({f"key:{number}": os.urandom(1_000) for number in range(1100)}, tags=["tag"])
    before = on_disk()
    assert DELETIONS[how](cache) == 1100
    wait_for(lambda: on_disk() < before / 2)
