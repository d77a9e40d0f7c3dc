"""Deletes expired entries in the worker, since no write does so in a cache that is no longer written to."""

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router

from pgonly_django.cache.backend import our_settings
from pgonly_django.cache.entry import CACHE_TABLES, SIZE, first_bytes, minute_of
from pgonly_django.cache.lock import PRUNE_LOCKS
from pgonly_django.cache.options import parse
from pgonly_django.database.on_django import all_rows
from pgonly_django.models import CacheEntry
from pgonly_django.tables import qualified

# Served by <table>_prune: the WITH walks from namespace to namespace, one step each. It waits for no lock: if the row
# of a cache in pgonly_cache_usage is locked, the next recount corrects its numbers.
PRUNE_EXPIRED = qualified(f"""
WITH RECURSIVE space (name) AS (
    (SELECT split_part(key, ':', 1) FROM {{table}} ORDER BY split_part(key, ':', 1) LIMIT 1)
    UNION ALL
    SELECT (SELECT split_part(key, ':', 1) FROM {{table}} WHERE split_part(key, ':', 1) > space.name
            ORDER BY split_part(key, ':', 1) LIMIT 1)
    FROM space WHERE space.name IS NOT NULL
),
expired AS MATERIALIZED (SELECT found.* FROM space CROSS JOIN LATERAL (
        SELECT key, prune_minute, {SIZE} AS size FROM {{table}} WHERE split_part(key, ':', 1) = space.name
        AND prune_minute < {minute_of("statement_timestamp()")}
        ORDER BY prune_minute LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS found LIMIT %(limit)s
),
gone AS (DELETE FROM {{table}} WHERE key = ANY(ARRAY({first_bytes("expired", "prune_minute, key")}))
    RETURNING '{{table}}:' || split_part(key, ':', 1) || ':' AS cache, {SIZE} AS size),
removed AS (SELECT cache, count(*) AS rows, sum(size)::int8 AS size FROM gone GROUP BY cache),
free AS (SELECT name FROM pgonly_cache_usage WHERE name = ANY(ARRAY(SELECT cache FROM removed))
    FOR UPDATE SKIP LOCKED),
told AS (UPDATE pgonly_cache_usage AS usage SET entries = greatest(entries - removed.rows, 0),
    bytes = greatest(bytes - removed.size, 0)
    FROM removed JOIN free ON free.name = removed.cache WHERE usage.name = removed.cache)
SELECT count(*) FROM gone
""")


def prunable_databases(own: str) -> set[str]:
    """Returns the aliases to prune: `own`, unless a router keeps the tables from it, and the aliases of our caches."""
    found = {own} if router.allow_migrate_model(own, CacheEntry) else set()
    for cache in our_settings().values():
        try:
            found.add(parse(cache.get("OPTIONS", {})).database)
        except ImproperlyConfigured:
            continue  # no method of that cache works; `check` says why
    return {alias for alias in found if alias in connections and connections[alias].vendor == "postgresql"}


def prune_expired(alias: str, limit: int = 1000) -> int:
    """Deletes up to `limit` expired rows of all caches in a database, and returns their number. It waits for no lock.
    Call it again until it returns less than `limit`.
    """
    pruned = 0
    for statement in (
        *(qualified(PRUNE_EXPIRED.replace("{table}", each)) for each in CACHE_TABLES),
        PRUNE_LOCKS,
    ):
        gone = 1
        while gone and pruned < limit:  # a batch may end early, at DELETED_BYTES
            ((gone,),) = all_rows(alias, statement, {"limit": limit - pruned})
            pruned += gone
    return pruned
