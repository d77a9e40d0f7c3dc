"""What each cache of settings.CACHES holds, without walking over a large one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections

from pgonly_django.cache.backend import PostgresCache, our_caches
from pgonly_django.cache.entry import SIZE, TABLES
from pgonly_django.cache.eviction import cache_name
from pgonly_django.database.time_limit import time_limit
from pgonly_django.tables import qualified

COUNTED_AT_MOST = 5_000

# Index: the primary keys; of the entries one range, 5,001 rows. SIZE reads no value.
FIGURES = tuple(
    qualified(f"""
SELECT entries, bytes, hits, misses, counted.rows, counted.size, pg_total_relation_size('{table}'::regclass)
FROM (SELECT count(*) AS rows, coalesce(sum(size), 0)::int8 AS size FROM (
    SELECT {SIZE} AS size FROM {table} WHERE key >= %(start)s::text AND key < %(end)s::text
    ORDER BY key LIMIT {COUNTED_AT_MOST + 1}) AS entry) AS counted
LEFT JOIN pgonly_cache_usage ON name = %(name)s::text
""")
    for table in TABLES
)


@dataclass(frozen=True, slots=True)
class CacheFigures:
    alias: str
    database: str
    location: str
    table: str
    max_entries: int | None
    max_bytes: int | None
    entries: int = 0
    bytes: int = 0
    is_estimate: bool = False  # as the processes have counted them, which a kill makes wrong
    table_bytes: int = 0  # on disk, with indexes: of all caches in this table together
    hits: int = 0
    misses: int = 0
    problem: str = ""  # why there are no numbers

    @property
    def hit_rate(self) -> float | None:
        """Hits of all reads that were flushed so far, 0 to 1; None before the first."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else None


def caches(limit: timedelta | None = None) -> list[CacheFigures]:
    """Counts COUNTED_AT_MOST entries of each; of a larger cache it takes what its processes have counted. Where the
    database of one does not answer, or not within the `limit`, it has a `problem` and no numbers."""
    return [_figures(alias, cache, limit) for alias, cache in our_caches().items()]


def _figures(alias: str, cache: PostgresCache, limit: timedelta | None) -> CacheFigures:
    store = cache.store
    none = CacheFigures(
        alias=alias,
        database=store.pool.alias,
        location=store.location,
        table=TABLES[store.durable],
        max_entries=store.max_entries,
        max_bytes=store.max_bytes,
    )
    start = store.namespace
    parameters = {"start": start, "end": f"{start}\U0010ffff", "name": cache_name(store.durable, start)}
    limited: AbstractContextManager[None] = time_limit(store.pool.alias, limit) if limit else nullcontext()
    try:
        with limited, connections[store.pool.alias].cursor() as cursor:
            cursor.execute(FIGURES[store.durable], parameters)
            ((entries, size, hits, misses, rows, counted_size, table_bytes),) = cursor.fetchall()
    except (Error, ImproperlyConfigured) as error:
        return replace(none, problem=" ".join(str(error).split()))
    is_estimate = rows > COUNTED_AT_MOST
    return replace(
        none,
        entries=max(entries or 0, rows) if is_estimate else rows,
        bytes=max(size or 0, counted_size) if is_estimate else counted_size,
        is_estimate=is_estimate,
        table_bytes=table_bytes,
        hits=hits or 0,
        misses=misses or 0,
    )
