"""The worker's share of cleaning: what expired in caches that nobody writes to any more."""

from __future__ import annotations

from django.db import connections

from pgonly_django.cache.statement import TABLES

# Served by <table>_prune: the WITH walks from namespace to namespace, one step each.
PRUNE_EXPIRED = """
WITH RECURSIVE space (name) AS (
    (SELECT split_part(key, ':', 1) FROM {table} ORDER BY split_part(key, ':', 1) LIMIT 1)
    UNION ALL
    SELECT (SELECT split_part(key, ':', 1) FROM {table} WHERE split_part(key, ':', 1) > space.name
            ORDER BY split_part(key, ':', 1) LIMIT 1)
    FROM space WHERE space.name IS NOT NULL
)
DELETE FROM {table} WHERE key = ANY(ARRAY(
    SELECT expired.key FROM space CROSS JOIN LATERAL (
        SELECT key FROM {table} WHERE split_part(key, ':', 1) = space.name
        AND prune_minute < floor(date_part('epoch', statement_timestamp()) / 60)::int4
        ORDER BY prune_minute LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS expired LIMIT %(limit)s
))
"""

# Free locks, and those of holders that died. The hour is for a statement that got its token before it met the
# row: with the row gone it would insert that token, which is older than those given since. Few rows: no index.
PRUNE_LOCKS = """
DELETE FROM pgonly_cache_lock WHERE name = ANY(ARRAY(
    SELECT name FROM pgonly_cache_lock WHERE expires_at < clock_timestamp() - interval '1 hour'
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
"""


def prune_expired(alias: str, limit: int = 1000) -> int:
    """Delete up to `limit` expired rows of all caches of a database, and say how many. Waits for no lock.

    Call it again until it says less than `limit`.
    """
    pruned = 0
    statements = [*(PRUNE_EXPIRED.replace("{table}", table) for table in TABLES), PRUNE_LOCKS]
    with connections[alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement, {"limit": limit - pruned})
            pruned += cursor.rowcount
    return pruned
