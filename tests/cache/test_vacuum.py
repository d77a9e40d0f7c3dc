"""Writes vacuum."""

from __future__ import annotations

import os

from django.db import connection

from pgonly_django.cache.counters import WRITES_PER_CLEANING
from pgonly_django.database.operation import run
from tests.waiting import wait_for


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
