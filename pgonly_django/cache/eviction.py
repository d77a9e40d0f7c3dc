"""Keeps a cache within MAX_ENTRIES and MAX_BYTES and deletes what expired. Writes do this work, a little at a time.

A process counts its reads and writes (counters.py) and adds them to the cache's row in pgonly_cache_usage. Killed
processes and rows deleted by other means make those numbers wrong, and a recount corrects them. A recount comes after a
quarter as many writes as there are entries, so a write's share of its cost does not grow with the table.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.pq.abc import PGresult

from pgonly_django import events
from pgonly_django.cache import globs
from pgonly_django.cache.counters import BYTES_PER_CLEANING, WRITES_PER_CLEANING, CacheCounts, Counters
from pgonly_django.cache.entry import (
    CACHE_TABLES,
    DELETED_BYTES,
    SIZE,
    Statements,
    first_bytes,
    for_both_tables,
    minute_of,
)
from pgonly_django.cache.options import Options, background
from pgonly_django.database import connect, testrun
from pgonly_django.database.operation import Operation, Signal, run
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import integer
from pgonly_django.exceptions import CacheError
from pgonly_django.tables import qualified

# More rows than were written since the last cleaning, so expired rows cannot pile up.
PRUNE_LIMIT, PRUNE_BYTES = 2 * WRITES_PER_CLEANING, 2 * BYTES_PER_CLEANING
EVICT_LIMIT = 1000
# After this many bytes were written, or half of the table if that is more, its dead rows are removed.
VACUUM_BYTES = 32 * 1024 * 1024

# TRUNCATE gives the empty end of the table back to the disk after large deletions; readers wait a moment for that.
# Without TRUNCATE a full disk stays full. A role that does not own the table gets a warning, no vacuum.
VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE FALSE) {table}"
VACUUM_AND_SHRINK = "VACUUM (SKIP_LOCKED, TRUNCATE TRUE) {table}"
# To clean an index may take some pages, which a full disk does not have. First comes what needs no pages: the large
# values, which are in a separate table (PostgreSQL 16 and later), and the rows without their indexes.
WHERE_DISK_IS_FULL = (
    "VACUUM (SKIP_LOCKED, TRUNCATE TRUE, PROCESS_MAIN FALSE) {table}",
    "VACUUM (SKIP_LOCKED, TRUNCATE TRUE, INDEX_CLEANUP FALSE) {table}",
)
# Then the whole table. If an autovacuum of one of the two makes this skip it, that autovacuum ends within seconds.
PAUSES_WHERE_DISK_IS_FULL = 0.0, 0.5, 2.0

_Settings = tuple[str, str, int | None, int | None]
_evictions: dict[_Settings, Eviction] = {}
_creating = threading.Lock()


def eviction_for(pool: Pool, namespace: str, options: Options) -> Eviction:
    """Returns this process's eviction for a cache. Django makes a cache object per thread; they count together."""
    name = cache_name(options.durable, namespace)
    settings = options.database, name, options.max_entries, options.max_bytes
    with _creating:
        if settings not in _evictions:
            _evictions[settings] = Eviction(pool, namespace, options)
        return _evictions[settings]


def cache_name(durable: bool, namespace: str) -> str:
    """Returns the name of a cache in pgonly_cache_usage."""
    return f"{CACHE_TABLES[durable]}:{namespace}"


class Eviction:
    def __init__(self, pool: Pool, namespace: str, options: Options) -> None:
        self._pool, self._options, self._namespace = pool, options, namespace
        self._name = cache_name(options.durable, namespace).encode()
        self._space = namespace[:-1].encode()
        self.counters = Counters(options.max_entries, options.max_bytes)
        pool.before_rest.append(self._begin_to_flush)

    def clean(self) -> Operation[None]:
        """Prunes a batch of expired entries, and evicts entries above the bounds. Never fails the write before it."""
        try:
            yield from self._prune()
            yield from self._flush()
        except CacheError as error:
            _warn("Cleaning", error)

    def reclaim(self, deleted: int, *, waits: bool = False) -> Operation[None]:
        """Vacuums after a deletion of many bytes, so that others can use their space. With `waits` it does so after any
        deletion, and the caller waits for up to TIMEOUT_SECONDS."""
        if deleted < (1 if waits else VACUUM_BYTES):
            return
        signal, table = Signal(self._options.timeout_seconds), CACHE_TABLES[self._options.durable]
        if _vacuum_in_background(self._pool.alias, table, VACUUM_AND_SHRINK, signal.set) and waits:
            yield signal

    def flush(self) -> Operation[None]:
        """Writes the counts to the database. Never fails the call before it."""
        try:
            yield from self._flush()
        except CacheError as error:
            _warn("Counting", error)

    def _begin_to_flush(self) -> bool:
        """Takes the counts, for a process that is about to end. Returns False where there is nothing to write."""
        if self.counters.counts == CacheCounts():
            return False
        background.add(lambda: run(self.flush()), 0)
        return True

    def flush_at_exit(self) -> None:
        """Writes the counts over a connection that is open: a process does not connect in order to end."""
        self.counters.counts.written = 0  # so no vacuum is due: Python starts no thread now
        if self.counters.counts == CacheCounts() or not self._pool.is_connected():
            return
        try:
            run(self.flush())
        except Exception as error:  # noqa: BLE001 - the process is ending, and these are only numbers
            _warn("Counting", error)

    def _call(self, statements: Statements, *, takes_long: bool = True, **params: Any) -> Operation[PGresult]:
        statement, usual = statements[self._options.durable], self._options.timeout_seconds
        timeout = self._options.long_timeout_seconds if takes_long else usual
        return self._pool.call(statement, statement.values(params), timeout, usual)

    # Served by (split_part(key, ':', 1), prune_minute): the oldest-expiring of this namespace come first.
    PRUNE = for_both_tables(
        f"""WITH old AS MATERIALIZED (SELECT key, prune_minute, {SIZE} AS size FROM {{table}}
            WHERE split_part(key, ':', 1) = %(space)s::text AND prune_minute < {minute_of("statement_timestamp()")}
            ORDER BY prune_minute LIMIT %(limit)s::int8 FOR UPDATE SKIP LOCKED),
        gone AS (DELETE FROM {{table}} WHERE key = ANY(ARRAY({first_bytes("old", "prune_minute, key")}))
            RETURNING {SIZE} AS size)
        SELECT count(*), coalesce(sum(size), 0)::int8 FROM gone""",
        may_take_long=True,
    )

    def _prune(self) -> Operation[None]:
        rows = size = 0
        while rows < PRUNE_LIMIT and size < PRUNE_BYTES:
            result = yield from self._call(self.PRUNE, space=self._space, limit=PRUNE_LIMIT - rows)
            gone, freed = integer(result.get_value(0, 0)), integer(result.get_value(0, 1))
            self.counters.removed(gone, freed)
            rows, size = rows + gone, size + freed
            if freed < DELETED_BYTES:  # the number of rows ended the batch, not that of bytes
                return

    # writes = 0 in the answer says that a recount is due: exactly one process that flushes gets it.
    FLUSH = for_both_tables(
        """INSERT INTO pgonly_cache_usage AS usage (name, hits, misses, entries, bytes, writes, written)
        VALUES (%(name)s::text, %(hits)s::int8, %(misses)s::int8, %(entries)s::int8, %(bytes)s::int8, 0,
            %(written)s::int8) ON CONFLICT (name) DO UPDATE SET
        hits = usage.hits + EXCLUDED.hits, misses = usage.misses + EXCLUDED.misses,
        entries = greatest(usage.entries + EXCLUDED.entries, 0),
        bytes = greatest(usage.bytes + EXCLUDED.bytes, 0),
        writes = CASE WHEN usage.writes < greatest(100, usage.entries / 4)
            THEN usage.writes + %(writes)s::int8 ELSE 0 END,
        written = CASE WHEN %(written)s::int8 = 0
            OR usage.written < greatest(%(vacuum_bytes)s::int8, pg_total_relation_size('{table}'::regclass) / 2)
            THEN usage.written + %(written)s::int8 ELSE 0 END
        RETURNING entries, bytes, writes, written = 0 AND %(written)s::int8 > 0""",
        may_take_long=True,
    )

    def _flush(self) -> Operation[None]:
        """Adds the counts to the cache's row, and evicts where a bound is passed."""
        counts = self.counters.take()
        result = yield from self._call(
            self.FLUSH, takes_long=False, name=self._name, hits=counts.hits, misses=counts.misses,
            entries=counts.entries, bytes=counts.bytes, writes=max(counts.writes, 1), written=counts.written,
            vacuum_bytes=VACUUM_BYTES,
        )  # fmt: skip
        if result.get_value(0, 3) == b"\x01":
            _vacuum_in_background(self._pool.alias, CACHE_TABLES[self._options.durable])
        if not self.counters.bounded:
            return
        entries, size, writes = (integer(result.get_value(0, column)) for column in range(3))
        if writes == 0:
            entries, size = yield from self._recount()
        if self._is_over(entries, size):
            yield from self._evict()

    def _is_over(self, entries: int, size: int) -> bool:
        options = self._options
        return entries > (options.max_entries or entries) or size > (options.max_bytes or size)

    # Served by the primary key: one namespace is one range of it.
    RECOUNT = for_both_tables(
        f"""WITH counted AS (SELECT count(*) AS rows, coalesce(sum({SIZE}), 0)::int8 AS size
            FROM {{table}} WHERE key >= %(start)s::text AND key < %(end)s::text)
        UPDATE pgonly_cache_usage SET entries = rows, bytes = size FROM counted WHERE name = %(name)s::text
        RETURNING entries, bytes""",
        may_take_long=True,
    )

    def _recount(self) -> Operation[tuple[int, int]]:
        """Writes the true number of entries and bytes to the cache's row, and returns them."""
        end = globs.following(self._namespace)
        result = yield from self._call(self.RECOUNT, name=self._name, start=self._namespace, end=end)
        if not result.ntuples:
            return 0, 0
        return integer(result.get_value(0, 0)), integer(result.get_value(0, 1))

    # The excess is read under the lock of the usage row, so two processes never evict for the same excess. The average
    # size of an entry says how many rows make up the excess; `factor` times as many are looked at, and those above the
    # bounds are deleted. coalesce() stands there because a LIMIT of NULL does not limit.
    EVICT = for_both_tables(
        f"""WITH excess AS MATERIALIZED (
            SELECT entries - %(most_entries)s::int8 AS rows, bytes - %(most_bytes)s::int8 AS size,
                least(%(limit)s::int8, %(factor)s::int8 * greatest(entries - %(most_entries)s::int8,
                ceil((bytes - %(most_bytes)s::int8) * (entries / greatest(bytes, 1.0)))))::int8 AS looked_at
            FROM pgonly_cache_usage WHERE name = %(name)s::text FOR UPDATE SKIP LOCKED),
        old AS MATERIALIZED (SELECT key, prune_minute, {SIZE} AS size FROM {{table}}
            WHERE split_part(key, ':', 1) = %(space)s::text
            AND (claimed_until IS NULL OR claimed_until < statement_timestamp()) ORDER BY prune_minute
            LIMIT coalesce((SELECT greatest(looked_at, 0) FROM excess), 0) FOR UPDATE SKIP LOCKED),
        above AS (SELECT old.key, old.size, prune_minute, row_number() OVER first AS number,
            sum(old.size) OVER first - old.size AS before
            FROM old WINDOW first AS (ORDER BY prune_minute, key)),
        chosen AS MATERIALIZED (SELECT above.* FROM above, excess
            WHERE number <= excess.rows OR before < excess.size),
        gone AS (DELETE FROM {{table}} WHERE key = ANY(ARRAY({first_bytes("chosen", "prune_minute, key")}))
            RETURNING {SIZE} AS size),
        total AS (SELECT count(*) AS rows, coalesce(sum(size), 0)::int8 AS size FROM gone)
        UPDATE pgonly_cache_usage AS usage SET entries = greatest(entries - rows, 0),
        bytes = greatest(bytes - size, 0) FROM total
        WHERE name = %(name)s::text AND (SELECT looked_at > 0 FROM excess) RETURNING rows, entries, bytes""",
        may_take_long=True,
    )

    def _evict(self) -> Operation[None]:
        """Deletes entries above the bounds. Recounts if the numbers say that there are some, but none is found."""
        factor = 1
        while True:
            result = yield from self._call(
                self.EVICT, name=self._name, space=self._space, limit=EVICT_LIMIT, factor=factor,
                most_entries=self._options.max_entries or 10**15, most_bytes=self._options.max_bytes or 10**18,
            )  # fmt: skip
            if not result.ntuples:
                return
            evicted, entries, size = (integer(result.get_value(0, column)) for column in range(3))
            if not evicted:
                yield from self._recount()
            if not (evicted and self._is_over(entries, size)):
                return
            factor = min(2 * factor, EVICT_LIMIT)


# Autovacuum looks at a table once a minute; a busy cache writes gigabytes in that time.
def _vacuum_in_background(
    alias: str, table: str, statement: str = VACUUM, ended: Callable[[], object] = lambda: None
) -> bool:
    """Starts a vacuum, and calls `ended` after it. Returns False if no vacuum is started."""
    if testrun.is_on() and testrun.is_any_in_testcase(alias):
        return False  # what this test wrote is rolled back
    arguments = alias, table, statement, ended
    try:
        threading.Thread(target=_vacuum, args=arguments, name="pgonly cache vacuum", daemon=True).start()
    except RuntimeError:  # no thread can be started: a later write tries again
        return False
    return True


def _vacuum(alias: str, table: str, statement: str, ended: Callable[[], object]) -> None:
    """Vacuums on a connection that it opens and closes, since it may take long."""
    first, *others = (
        qualified(each.replace("{table}", table)).encode() for each in (statement, *WHERE_DISK_IS_FULL)
    )
    try:
        with connect.connect(alias, application_name="pgonly cache vacuum") as connection:
            for pause in PAUSES_WHERE_DISK_IS_FULL:
                with contextlib.suppress(psycopg.errors.DiskFull):
                    connection.execute(first)
                    return
                for each in others:
                    with contextlib.suppress(psycopg.DatabaseError):
                        connection.execute(each)
                time.sleep(pause)
            connection.execute(first)
    except psycopg.Error as error:
        events.emit("cache.cleaning_failed", f"Vacuuming the cache failed: {error}", level=logging.WARNING)
    finally:
        ended()


def _warn(what: str, error: Exception) -> None:
    events.emit("cache.cleaning_failed", f"{what} the cache failed: {error}", level=logging.WARNING)


def _flush_at_exit() -> None:
    for eviction in tuple(_evictions.values()):
        eviction.flush_at_exit()


def _after_fork() -> None:
    """Resets the locks: a forked child has none of the parent's threads, which may have held one."""
    global _creating  # noqa: PLW0603 - one per process, and this is another process
    _creating = threading.Lock()
    for eviction in _evictions.values():
        eviction.counters.reset()


atexit.register(_flush_at_exit)
os.register_at_fork(after_in_child=_after_fork)
