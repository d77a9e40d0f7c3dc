"""What a cache holds, and keeping it within its bounds. Writes pay for it: every so many clean a little.

The threads of a process count their reads and writes together and add them to the cache's row in
pgonly_cache_usage. What drifts (killed processes, rows removed by other means) a recount puts right; it comes
after a quarter as many writes as there are entries, so a write's share of it does not grow with the table.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from pgonly_django import events
from pgonly_django.cache import keys
from pgonly_django.cache.entry import DELETED_BYTES, SIZE, TABLES, first_bytes, minute_of
from pgonly_django.cache.options import Options
from pgonly_django.cache.statement import Statement
from pgonly_django.database import connect, testrun
from pgonly_django.database.binary import integer
from pgonly_django.database.operation import Operation, run
from pgonly_django.exceptions import CacheError

if TYPE_CHECKING:
    from pgonly_django.cache.store import Store


READS_PER_FLUSH = 1000
WRITES_PER_CLEANING = 1000
BYTES_PER_CLEANING = 32 * 1024 * 1024
# More than came in since, so expired rows cannot pile up.
PRUNE_LIMIT, PRUNE_BYTES = 2 * WRITES_PER_CLEANING, 2 * BYTES_PER_CLEANING
EVICT_LIMIT = 1000
# After so many bytes were written, or half of the table if that is more, its dead rows are removed.
VACUUM_BYTES = 32 * 1024 * 1024

_Settings = tuple[str, bytes, int | None, int | None]
_usages: dict[_Settings, Usage] = {}
_creating = threading.Lock()


def usage_for(store: Store, options: Options) -> Usage:
    """What this process counts of a cache. Django makes a cache object per thread; they count together."""
    name = f"{TABLES[options.durable]}:{store.namespace}".encode()
    settings = options.database, name, options.max_entries, options.max_bytes
    with _creating:
        if settings not in _usages:
            _usages[settings] = Usage(store, options, name)
        return _usages[settings]


@dataclass(slots=True)
class Counts:
    reads: int = 0
    hits: int = 0
    misses: int = 0
    writes: int = 0
    written: int = 0  # bytes
    entries: int = 0  # how many more there are
    bytes: int = 0  # how much larger they are


class Usage:
    def __init__(self, store: Store, options: Options, name: bytes) -> None:
        self._store, self._name = store, name
        self._space = store.namespace[:-1].encode()
        self._max_entries, self._max_bytes = options.max_entries, options.max_bytes
        self.bounded = bool(options.max_entries or options.max_bytes)
        self._writes_allowed = min(WRITES_PER_CLEANING, max(1, (options.max_entries or 10**9) // 50))
        self._bytes_allowed = max(1, (options.max_bytes or 10**18) // 200)
        self.forget()

    def forget(self) -> None:
        """Begin to count, as in a process that was just forked: what there was its parent will tell."""
        self._counts = Counts()
        self._lock = threading.Lock()
        # The first share comes early by chance, so that processes which end after a few writes pay theirs.
        self._writes_due = random.randint(1, self._writes_allowed)  # noqa: S311 - no secret
        self._bytes_due = self._bytes_allowed
        self._written_due = random.randint(1, BYTES_PER_CLEANING)  # noqa: S311 - no secret
        self._told = False

    def read(self, *, hits: int, misses: int) -> bool:
        """Count a call's reads; True when they should be told to the database."""
        with self._lock:
            counts = self._counts
            counts.reads += 1
            counts.hits += hits
            counts.misses += misses
            return counts.reads >= READS_PER_FLUSH

    def wrote(self, *, entries: int, size: int, written: int, writes: int = 1) -> bool:
        """Count writes: new entries, bytes more than before, bytes written. True when a cleaning is due."""
        with self._lock:
            counts = self._counts
            counts.writes += writes
            counts.written += written
            counts.entries += entries
            counts.bytes += size
            due = (
                counts.writes >= self._writes_due
                or counts.bytes >= self._bytes_due
                or counts.written >= self._written_due
            )
            if due:  # it is the turn of this writer, not of all those beside him
                self._written_due = counts.written + BYTES_PER_CLEANING
                self._writes_due = counts.writes + self._writes_allowed
                self._bytes_due = counts.bytes + self._bytes_allowed
            return due

    def removed(self, entries: int, size: int) -> bool:
        """Count what is gone; True when it is so much that others should know before they evict."""
        with self._lock:
            counts = self._counts
            counts.entries -= entries
            counts.bytes -= size
            much = -counts.entries >= self._writes_allowed or -counts.bytes >= self._bytes_allowed
            return self.bounded and much

    def clean(self) -> Operation[None]:
        """Prune a batch of expired entries, evict what is above the bounds. Never fails the write before."""
        try:
            yield from self._prune()
            yield from self._flush()
        except CacheError as error:
            _warn("Cleaning", error)

    def tell(self) -> Operation[None]:
        """Tell the database what was counted. Never fails the read before."""
        try:
            yield from self._flush()
        except CacheError as error:
            _warn("Counting", error)

    def tell_at_exit(self) -> None:
        """Tell what is left, over a connection there is; a process does not connect in order to end."""
        self._counts.written = 0  # no vacuum any more: Python starts no thread now
        if self._counts == Counts() or not self._store.pool.is_connected():
            return
        try:
            run(self.tell())
        except Exception as error:  # noqa: BLE001 - the process is ending, of numbers no more than a warning
            _warn("Counting", error)

    def _take_counts(self) -> Counts:
        with self._lock:
            counts, self._counts = self._counts, Counts()
            if not self._told:  # for all the writes of those processes that ended before their turn
                counts.writes = max(counts.writes, self._writes_allowed)
            self._told, self._bytes_due = True, self._bytes_allowed
            self._written_due = BYTES_PER_CLEANING
            # Not the same for all, or processes that began together would tell together what they held back.
            self._writes_due = random.randint(-(-self._writes_allowed // 2), self._writes_allowed)  # noqa: S311
        return counts

    # Served by (split_part(key, ':', 1), prune_minute): the oldest-expiring of this namespace come first.
    PRUNE = Statement(
        "WITH old AS MATERIALIZED (SELECT key, prune_minute, " + SIZE + """ AS size FROM {table}
            WHERE split_part(key, ':', 1) = $1
            AND prune_minute < """ + minute_of("statement_timestamp()") + """
            ORDER BY prune_minute LIMIT $2 FOR UPDATE SKIP LOCKED),
        gone AS (DELETE FROM {table} WHERE key = ANY(ARRAY(""" + first_bytes("old", "prune_minute, key") + """))
            RETURNING """ + SIZE + """ AS size)
        SELECT count(*), coalesce(sum(size), 0)::int8 FROM gone""",
        "text int8", may_take_long=True,
    )  # fmt: skip

    def _prune(self) -> Operation[None]:
        rows = size = 0
        while rows < PRUNE_LIMIT and size < PRUNE_BYTES:
            limit = PRUNE_LIMIT - rows
            params = self._space, b"%d" % limit
            result = yield from self._store.call(self.PRUNE, params, self._store.long_timeout)
            gone, freed = integer(result.get_value(0, 0)), integer(result.get_value(0, 1))
            self.removed(gone, freed)
            rows, size = rows + gone, size + freed
            if freed < DELETED_BYTES:  # then it was not its size that ended the batch
                return

    # writes = 0 afterwards says that a recount is due, to exactly one of those who flush.
    FLUSH = Statement(
        """INSERT INTO pgonly_cache_usage AS usage (name, hits, misses, entries, bytes, writes, written)
        VALUES ($1, $2, $3, $4, $5, 0, $7) ON CONFLICT (name) DO UPDATE SET
        hits = usage.hits + EXCLUDED.hits, misses = usage.misses + EXCLUDED.misses,
        entries = greatest(usage.entries + EXCLUDED.entries, 0),
        bytes = greatest(usage.bytes + EXCLUDED.bytes, 0),
        writes = CASE WHEN usage.writes < greatest(100, usage.entries / 4)
            THEN usage.writes + $6 ELSE 0 END,
        written = CASE WHEN $7 = 0 OR usage.written < greatest($8, pg_total_relation_size('{table}') / 2)
            THEN usage.written + $7 ELSE 0 END
        RETURNING entries, bytes, writes, written = 0 AND $7 > 0""",
        "text int8 int8 int8 int8 int8 int8 int8",
        may_take_long=True,
    )

    def _flush(self) -> Operation[None]:
        """Add what was counted to the cache's row; within bounds afterwards."""
        counts = self._take_counts()
        told = counts.hits, counts.misses, counts.entries, counts.bytes, max(counts.writes, 1), counts.written
        params = self._name, *(b"%d" % each for each in (*told, VACUUM_BYTES))
        result = yield from self._store.call(self.FLUSH, params)
        if result.get_value(0, 3) == b"\x01":
            self._vacuum()
        if not self.bounded:
            return
        entries, size, writes = (integer(result.get_value(0, column)) for column in range(3))
        if writes == 0:
            entries, size = yield from self.recount()
        if self._is_over(entries, size):
            yield from self._evict()

    def _is_over(self, entries: int, size: int) -> bool:
        return entries > (self._max_entries or entries) or size > (self._max_bytes or size)

    def _vacuum(self) -> None:
        """In a thread of its own. Autovacuum looks once a minute, a busy cache writes gigabytes meanwhile."""
        arguments = self._store.pool.alias, TABLES[self._store.durable]
        if testrun.is_on() and testrun.is_any_in_testcase(arguments[0]):
            return  # what this test wrote is rolled back
        with contextlib.suppress(RuntimeError):  # no thread to be had: another write's turn
            threading.Thread(target=vacuum, args=arguments, name="pgonly cache vacuum", daemon=True).start()

    # Served by the primary key: one namespace is one range of it.
    RECOUNT = Statement(
        """WITH counted AS (SELECT count(*) AS rows, coalesce(sum("""
        + SIZE
        + """), 0)::int8 AS size FROM {table} WHERE key >= $2 AND key < $3)
        UPDATE pgonly_cache_usage SET entries = rows, bytes = size FROM counted WHERE name = $1
        RETURNING entries, bytes""",
        "text text text",
        may_take_long=True,
    )

    def recount(self) -> Operation[tuple[int, int]]:
        """The true number of entries and bytes, written down."""
        space = self._store.namespace
        params = self._name, space.encode(), keys.following(space)
        result = yield from self._store.call(self.RECOUNT, params, self._store.long_timeout)
        if not result.ntuples:
            return 0, 0
        return integer(result.get_value(0, 0)), integer(result.get_value(0, 1))

    # How many is decided under the usage row's lock, so two processes never evict for the same excess. As many
    # rows are looked at as the average size makes of it, $6 times, and of those go what is above the bounds.
    # A LIMIT of NULL would be no limit at all: hence the coalesce.
    EVICT = Statement(
        """WITH excess AS MATERIALIZED (
            SELECT entries - $3 AS rows, bytes - $4 AS size, least($5, $6 * greatest(entries - $3,
                ceil((bytes - $4) * (entries / greatest(bytes, 1.0)))))::int8 AS looked_at
            FROM pgonly_cache_usage WHERE name = $1 FOR UPDATE SKIP LOCKED),
        old AS MATERIALIZED (SELECT key, prune_minute, """ + SIZE + """ AS size FROM {table}
            WHERE split_part(key, ':', 1) = $2
            AND (claimed_until IS NULL OR claimed_until < statement_timestamp()) ORDER BY prune_minute
            LIMIT coalesce((SELECT greatest(looked_at, 0) FROM excess), 0) FOR UPDATE SKIP LOCKED),
        above AS (SELECT old.key, old.size, prune_minute, row_number() OVER first AS number,
            sum(old.size) OVER first - old.size AS before
            FROM old WINDOW first AS (ORDER BY prune_minute, key)),
        chosen AS MATERIALIZED (SELECT above.* FROM above, excess
            WHERE number <= excess.rows OR before < excess.size),
        gone AS (DELETE FROM {table} WHERE key = ANY(ARRAY(""" + first_bytes("chosen", "prune_minute, key") + """))
            RETURNING """ + SIZE + """ AS size),
        total AS (SELECT count(*) AS rows, coalesce(sum(size), 0)::int8 AS size FROM gone)
        UPDATE pgonly_cache_usage AS usage SET entries = greatest(entries - rows, 0),
        bytes = greatest(bytes - size, 0) FROM total
        WHERE name = $1 AND (SELECT looked_at > 0 FROM excess) RETURNING rows, entries, bytes""",
        "text text int8 int8 int8 int8", may_take_long=True,
    )  # fmt: skip

    def _evict(self) -> Operation[None]:
        """Delete what is above the bounds. Where nothing is found of what the numbers say, count again."""
        bounds = self._max_entries or 10**15, self._max_bytes or 10**18
        factor = 1
        while True:
            params = self._name, self._space, *(b"%d" % each for each in (*bounds, EVICT_LIMIT, factor))
            result = yield from self._store.call(self.EVICT, params, self._store.long_timeout)
            if not result.ntuples:
                return
            evicted, entries, size = (integer(result.get_value(0, column)) for column in range(3))
            if not evicted:
                yield from self.recount()
            if not (evicted and self._is_over(entries, size)):
                return
            factor = min(2 * factor, EVICT_LIMIT)


# TRUNCATE would wait for everybody's lock. Who does not own the table gets a warning and no vacuum.
VACUUM = "VACUUM (SKIP_LOCKED, TRUNCATE FALSE) {table}"


def vacuum(alias: str, table: str) -> None:
    """Remove the dead rows of a table, on a connection of its own: it may take long."""
    try:
        with connect.connect(alias, application_name="pgonly cache vacuum") as connection:
            connection.execute(VACUUM.replace("{table}", table).encode())
    except psycopg.Error as error:
        _warn("Vacuuming", error)


def _warn(what: str, error: Exception) -> None:
    events.emit("cache.cleaning_failed", f"{what} the cache failed: {error}", level=logging.WARNING)


def _tell_at_exit() -> None:
    for usage in tuple(_usages.values()):
        usage.tell_at_exit()


def _after_fork() -> None:
    """The child has none of the threads, and must not wait for a lock that one of them held."""
    global _creating  # noqa: PLW0603 - one per process, and this is another process
    _creating = threading.Lock()
    for usage in _usages.values():
        usage.forget()


atexit.register(_tell_at_exit)
os.register_at_fork(after_in_child=_after_fork)
