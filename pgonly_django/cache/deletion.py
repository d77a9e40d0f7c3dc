"""Deleting many entries: in batches of rows and of bytes, so that no statement takes long, however large the values.

Whatever the row holds goes: a live value, one that is shown stale, and the claim of a computation under way, which
then is not stored. Counted are the entries that get() would have found.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgonly_django.cache import keys
from pgonly_django.cache.bulk import BATCH, batches
from pgonly_django.cache.entry import LIVE, SIZE, first_bytes
from pgonly_django.cache.statement import Statement
from pgonly_django.cache.store import Store
from pgonly_django.database.binary import integer, text_array
from pgonly_django.database.connection import Params
from pgonly_django.database.operation import Operation

TAGGED_BATCH = 100_000  # rows a statement: each has to find all that have the tag


def _deleting(condition: str, types: str, *, by_key: bool = True) -> Statement:
    """Of the rows after key $1 those that meet the condition, $2 at most; $3 and up are the condition's.

    Rows are locked in the order of their keys, like by every write of many rows: so no two of them ever deadlock.
    As arrays: a subquery that locks would take another batch each time a nested loop starts it again. What is no
    condition on the key is tested again under the lock, and not to be found by a walk along the primary key.
    """
    offset, again = ("", "") if by_key else (" OFFSET 0", f" AND {condition}")
    return Statement(
        f"""WITH found AS MATERIALIZED (SELECT * FROM (
            SELECT key, {SIZE} AS size FROM {{table}} WHERE {condition}{offset}) AS matching
            WHERE key > $1 ORDER BY key LIMIT $2),
        chosen AS MATERIALIZED ({first_bytes("found", "key")}),
        gone AS (DELETE FROM {{table}} WHERE key = ANY(ARRAY(
            SELECT key FROM {{table}} WHERE key = ANY(ARRAY(SELECT key FROM chosen)){again}
            ORDER BY key FOR UPDATE)) RETURNING {LIVE} AS live, {SIZE} AS size),
        last AS (SELECT count(*) AS rows, max(key) AS key FROM found)
        SELECT count(*), coalesce(sum(size), 0)::int8, count(*) FILTER (WHERE live), (
            SELECT max(chosen.key) FROM chosen, last HAVING max(last.rows) = $2 OR max(last.key) > max(chosen.key))
        FROM gone""",
        f"text int8 {types}",
        may_take_long=True,
    )


def _delete(
    store: Store, statement: Statement, params: Params, limit: int = BATCH, timeout: float = 0
) -> Operation[int]:
    live = 0
    after: bytes | None = b""
    while after is not None:
        result = yield from store.call(statement, (after, b"%d" % limit, *params), timeout)
        rows, size, alive = (integer(result.get_value(0, column)) for column in range(3))
        after = result.get_value(0, 3)
        live += alive
        yield from store.removed(rows, size)
    return live


# Served by the primary key, like every statement here that says nothing else.
DELETE_MANY = _deleting("key = ANY($3)", "text[]")


def delete_many(store: Store, wanted: Sequence[bytes]) -> Operation[int]:
    live = 0
    for batch in batches(sorted(wanted)):
        live += yield from _delete(store, DELETE_MANY, (text_array(batch),))
    return live


# Served by the partial GIN index on tags, which holds tagged entries only.
DELETE_TAGS = _deleting("tags && $3", "text[]", by_key=False)


def delete_tags(store: Store, tags: Sequence[bytes]) -> Operation[int]:
    return _delete(store, DELETE_TAGS, (text_array(tags),), TAGGED_BATCH, store.long_timeout)


DELETE_RANGE = _deleting("key >= $3 AND key < $4", "text text")


def clear(store: Store, prefix: str = "") -> Operation[int]:
    """Delete every entry whose made key starts so."""
    return _delete(store, DELETE_RANGE, keys.span(store.namespace + prefix), timeout=store.long_timeout)


DELETE_PATTERN = _deleting("key >= $3 AND key < $4 AND key ~ $5", "text text text")


def delete_pattern(store: Store, pattern: str, itersize: int) -> Operation[int]:
    """Delete the entries whose made key matches the glob, `itersize` at most in a statement."""
    params = keys.matching(store.namespace, pattern)
    return _delete(store, DELETE_PATTERN, params, itersize, store.long_timeout)
