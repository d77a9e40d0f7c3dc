"""The contents of the caches of settings.CACHES and of the sessions, without walking over a large table."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.db import Error, connections

from pgonly_django.cache.backend import PostgresCache, our_caches
from pgonly_django.cache.entry import CACHE_TABLES, LIVE, SIZE
from pgonly_django.cache.eviction import cache_name
from pgonly_django.database.on_django import time_limit
from pgonly_django.monitoring.queues import Counted, capped
from pgonly_django.tables import qualified

COUNTED_AT_MOST = 5_000  # entries of a cache; sessions
USERS_AT_MOST = 10

# Index: the primary keys; of the entries one range, `most` rows. SIZE reads no value.
FIGURES = tuple(
    qualified(f"""
SELECT entries, bytes, coalesce(hits, 0), coalesce(misses, 0), counted.rows, counted.size, counted.expired,
    pg_total_relation_size('{table}'::regclass)
FROM (SELECT count(*) AS rows, coalesce(sum(size), 0)::int8 AS size, count(*) FILTER (WHERE is_over) AS expired FROM (
    SELECT {SIZE} AS size, NOT {LIVE} AS is_over FROM {table}
    WHERE key >= %(start)s::text AND key < %(end)s::text ORDER BY key LIMIT %(most)s::int8) AS entry) AS counted
LEFT JOIN pgonly_cache_usage ON name = %(name)s::text
""")
    for table in CACHE_TABLES
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
    expired: int = 0  # entries that are not deleted yet, of those that were counted
    problem: str = ""  # why there are no numbers

    @property
    def hit_rate(self) -> float | None:
        """The hits of all reads that were flushed so far, 0 to 1; None before the first."""
        reads = self.hits + self.misses
        return self.hits / reads if reads else None


def caches(limit: timedelta | None = None, *, counts_all: bool = False) -> list[CacheFigures]:
    """Counts COUNTED_AT_MOST entries of each, or all; for a larger cache it takes what its processes have counted.
    Where the database of one does not answer, or not within the `limit`, it has a `problem` and no numbers."""
    most = None if counts_all else COUNTED_AT_MOST
    return [_figures(alias, cache, limit, most) for alias, cache in our_caches().items()]


def _figures(alias: str, cache: PostgresCache, limit: timedelta | None, most: int | None) -> CacheFigures:
    store, table = cache.store, CACHE_TABLES[cache.store.durable]
    database, start = store.pool.alias, store.namespace
    none = CacheFigures(alias, database, store.location, table, store.max_entries, store.max_bytes)
    range_of = {"start": start, "end": f"{start}\U0010ffff", "most": None if most is None else most + 1}
    limited: AbstractContextManager[None] = time_limit(database, limit) if limit else nullcontext()
    try:
        with limited, connections[database].cursor() as cursor:
            name = cache_name(store.durable, start)
            cursor.execute(FIGURES[store.durable], {"name": name, **range_of})
            ((entries, size, hits, misses, rows, counted_size, expired, table_bytes),) = cursor.fetchall()
    except (Error, ImproperlyConfigured) as error:
        return replace(none, problem=" ".join(str(error).split()))
    is_estimate = most is not None and rows > most
    return replace(
        none,
        entries=max(entries or 0, rows) if is_estimate else rows,
        bytes=max(size or 0, counted_size) if is_estimate else counted_size,
        is_estimate=is_estimate,
        table_bytes=table_bytes,
        hits=hits,
        misses=misses,
        expired=expired,
    )


# Index: pgonly_session_expires, its 5,001 entries that expire last. Their rows are read, to leave out ended sessions.
ACTIVE = qualified(f"""
WITH newest AS MATERIALIZED (
    SELECT user_id, key_hash, expires_at FROM pgonly_session
    WHERE expires_hour >= floor(extract(epoch FROM statement_timestamp()) / 3600)::integer
        AND expires_at > statement_timestamp() AND data IS NOT NULL
    ORDER BY expires_hour DESC LIMIT {COUNTED_AT_MOST + 1}
)
SELECT NULL, count(*), count(user_id), NULL FROM newest
UNION ALL
(SELECT user_id, count(*), NULL, (array_agg(encode(key_hash, 'hex') ORDER BY expires_at DESC))[1]
 FROM newest WHERE user_id IS NOT NULL
 GROUP BY user_id ORDER BY 2 DESC, 1 LIMIT {USERS_AT_MOST})
""")


class OfUser(NamedTuple):
    user_id: str  # the text of the primary key
    active: int
    key_hash: str  # of the session that expires last


class SessionFigures(NamedTuple):
    active: Counted
    logged_in: Counted  # of them, the ones of a user
    by_user: list[OfUser]  # most sessions first


def sessions(alias: str) -> SessionFigures:
    """Returns the figures of the COUNTED_AT_MOST active sessions that expire last."""
    with connections[alias].cursor() as cursor:
        cursor.execute(ACTIVE)
        (_, active, logged_in, _), *users = cursor.fetchall()
    has_more = active > COUNTED_AT_MOST
    return SessionFigures(
        active=capped(active, COUNTED_AT_MOST),
        logged_in=Counted(min(logged_in, COUNTED_AT_MOST), has_more),
        by_user=[OfUser(user_id, count, key_hash) for user_id, count, _, key_hash in users],
    )
