"""Deletes many entries, in batches of rows and of bytes, so that no statement takes long even with large values.

The row is deleted, whether it holds a live value, a stale one, or the claim of a computation, whose value is then not
stored. The sums count the entries that get() would have found.
"""

from collections.abc import Sequence
from typing import Any

from pgonly_django.cache import call_log, globs
from pgonly_django.cache.bulk import BATCH, batches
from pgonly_django.cache.entry import LIVE, SIZE, Statements, first_bytes, for_both_tables
from pgonly_django.cache.store import Store
from pgonly_django.database.operation import Operation
from pgonly_django.database.statement import integer
from pgonly_django.events import emit

TAGGED_BATCH = 100_000  # rows a statement: each statement has to find all rows that have the tag


def _deleting(condition: str, *, by_key: bool = True) -> Statements:
    """Deletes the rows with a key after `after` that meet the condition, `limit` at most.

    It locks rows in the order of their keys, as every write of many rows does, so no two of them deadlock. It collects
    the keys in arrays, because a nested loop would run a subquery again, which would lock another batch. For the same
    reason only totals are joined in the answer: joined to rows, a total is computed again for each. A condition that is
    not about the key is tested again under the lock; OFFSET 0 then forbids a walk along the primary key.
    """
    offset, again = ("", "") if by_key else (" OFFSET 0", f" AND {condition}")
    return for_both_tables(
        f"""WITH found AS MATERIALIZED (SELECT * FROM (
            SELECT key, {SIZE} AS size FROM {{table}} WHERE {condition}{offset}) AS matching
            WHERE key > %(after)s::text ORDER BY key LIMIT %(limit)s::int8),
        chosen AS MATERIALIZED ({first_bytes("found", "key")}),
        gone AS (DELETE FROM {{table}} WHERE key = ANY(ARRAY(
            SELECT key FROM {{table}} WHERE key = ANY(ARRAY(SELECT key FROM chosen)){again}
            ORDER BY key FOR UPDATE)) RETURNING {LIVE} AS live, {SIZE} AS size)
        SELECT count(*), coalesce(sum(size), 0)::int8, count(*) FILTER (WHERE live), (
            SELECT done.key FROM (SELECT max(key) AS key FROM chosen) AS done,
                (SELECT count(*) AS rows, max(key) AS key FROM found) AS seen
            WHERE seen.rows = %(limit)s::int8 OR seen.key > done.key)
        FROM gone""",
        may_take_long=True,
    )


def _delete(
    store: Store, statements: Statements, limit: int = BATCH, timeout: float = 0, **params: Any
) -> Operation[tuple[int, int]]:
    """Returns (number of live entries that were deleted, their bytes)."""
    live = deleted = 0
    after: bytes | None = b""
    while after is not None:
        result = yield from store.call(statements, timeout, after=after, limit=limit, **params)
        rows, size, alive = (integer(result.get_value(0, column)) for column in range(3))
        after = result.get_value(0, 3)
        live, deleted = live + alive, deleted + size
        yield from store.removed(rows, size)
    return live, deleted


# Served by the primary key, like every statement here but DELETE_TAGS.
DELETE_MANY = _deleting("key = ANY(%(keys)s::text[])")


def delete_many(store: Store, wanted: Sequence[bytes]) -> Operation[int]:
    live = deleted = 0
    for batch in batches(sorted(wanted)):
        of_batch, size = yield from _delete(store, DELETE_MANY, keys=batch)
        live, deleted = live + of_batch, deleted + size
    yield from store.eviction.reclaim(deleted)
    call_log.say("delete", *wanted, detail=f"there were {live}")
    return live


# Served by the partial GIN index on tags, which holds tagged entries only.
DELETE_TAGS = _deleting("tags && %(tags)s::text[]", by_key=False)


def delete_tags(store: Store, tags: Sequence[bytes]) -> Operation[int]:
    live, deleted = yield from _delete(store, DELETE_TAGS, TAGGED_BATCH, store.long_timeout, tags=tags)
    yield from store.eviction.reclaim(deleted)
    call_log.say("delete", *tags, detail=f"these tags, {live} entries")
    return live


IN_RANGE = "key >= %(start)s::text AND key < %(end)s::text"
DELETE_RANGE = _deleting(IN_RANGE)


def clear(store: Store, prefix: str = "") -> Operation[int]:
    """Deletes every entry whose made key begins with `prefix`. Without one, all space is free for writes."""
    start, end = globs.span(store.namespace + prefix)
    live, deleted = yield from _delete(store, DELETE_RANGE, timeout=store.long_timeout, start=start, end=end)
    yield from store.eviction.reclaim(deleted, waits=not prefix)
    which = f" of the keys that begin with {prefix!r}" if prefix else ""
    message = f"The cache {store.location} was cleared{which}: {live} entries."
    emit("cache.cleared", message, location=store.location, entries=live)
    return live


DELETE_PATTERN = _deleting(IN_RANGE + " AND key ~ %(regex)s::text")


def delete_pattern(store: Store, pattern: str, itersize: int) -> Operation[int]:
    """Deletes the entries whose made key matches the glob, `itersize` at most in a statement."""
    start, end, regex = globs.matching(store.namespace, pattern)
    span = {"start": start, "end": end, "regex": regex}
    live, deleted = yield from _delete(store, DELETE_PATTERN, itersize, store.long_timeout, **span)
    yield from store.eviction.reclaim(deleted)
    call_log.say("delete", store.key(pattern), detail=f"this pattern, {live} entries")
    return live
