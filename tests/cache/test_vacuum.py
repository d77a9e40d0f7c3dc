"""Writes vacuum, and so do large deletions."""

from __future__ import annotations

import os

import pytest
from django.db import connection

from pgonly_django.cache.counters import WRITES_PER_CLEANING
from pgonly_django.database.operation import run
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


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


@pytest.fixture
def without_autovacuum(transactional_db):
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE pgonly_cache")
        cursor.execute(
            "ALTER TABLE pgonly_cache SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)"
        )
        yield
        cursor.execute("ALTER TABLE pgonly_cache RESET (autovacuum_enabled, toast.autovacuum_enabled)")


def on_disk():
    """Bytes of the table, with the large values."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_table_size('pgonly_cache')")
        return cursor.fetchone()[0]


def test_after_a_clear_others_have_the_space_at_once(cache, without_autovacuum):
    empty = on_disk()
    for number in range(100):
        cache.set(f"key:{number}", os.urandom(20_000))
    full = on_disk()
    assert full > empty + 2_000_000
    cache.clear()
    assert on_disk() < empty + 200_000


@pytest.mark.parametrize(
    "delete",
    [
        lambda cache: cache.delete_many([f"key:{number}" for number in range(1100)]),
        lambda cache: cache.delete_pattern("*"),
        lambda cache: cache.delete_tags("tag"),
        lambda cache: cache.clear_prefix(":1:key"),
    ],
    ids=["delete_many", "delete_pattern", "delete_tags", "clear_prefix"],
)
def test_a_large_deletion_vacuums_behind_it(cache, without_autovacuum, monkeypatch, delete):
    monkeypatch.setattr("pgonly_django.cache.eviction.VACUUM_BYTES", 1_000_000)
    cache.set_many({f"key:{number}": os.urandom(1_000) for number in range(1100)}, tags=["tag"])
    before = on_disk()
    assert delete(cache) == 1100
    wait_for(lambda: on_disk() < before / 2)
