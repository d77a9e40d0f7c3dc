"""incr() and decr(): atomic, and the expiry of the entry stays."""

from typing import Any

from psycopg.errors import NumericValueOutOfRange

from pgonly_django.cache import call_log
from pgonly_django.cache.entry import LIVE
from pgonly_django.cache.statement import for_both_tables
from pgonly_django.cache.store import Store
from pgonly_django.database.operation import Operation
from pgonly_django.database.statement import integer
from pgonly_django.exceptions import CacheError

SWAPS = 20  # attempts to write the sum before other callers change the value, where it is not in `number`


def incr(store: Store, key: bytes, delta: Any, name: Any) -> Operation[Any]:
    """The sum. ValueError without the key (the caller's `name`), TypeError where it holds no number."""
    if isinstance(delta, int):
        total = yield from _add(store, key, delta)
        if total is not None:
            return total
    for _ in range(SWAPS):
        found = yield from store.send(store.GET, [key])
        if not found.ntuples:
            raise ValueError(f"Key {name!r} not found")
        total = store.value(found, 0) + delta
        number = found.get_value(0, 0)
        before = found.get_value(0, 2), None if number is None else b"%d" % integer(number)
        swapped = yield from store.send(SWAP, [*store.row(key, total, None)[:4], *before])
        if swapped.command_tuples == 1:
            return total
    raise CacheError(f"Key {name!r} was written by others {SWAPS} times while {delta!r} was added to it.")


# Served by the primary key, like the statement below.
INCR = for_both_tables(
    f"""UPDATE {{table}} SET number = number + %(delta)s::int8
    WHERE key = %(key)s::text AND number IS NOT NULL AND {LIVE} RETURNING number""",
    "key delta",
)


def _add(store: Store, key: bytes, delta: int) -> Operation[int | None]:
    """The sum; None where the entry is no integer in `number`, or the sum needs more than 64 bits."""
    try:
        result = yield from store.send(INCR, [key, b"%d" % delta])
    except CacheError as error:
        if isinstance(error.__cause__, NumericValueOutOfRange):
            return None
        raise
    total = integer(result.get_value(0, 0)) if result.ntuples else None
    if total is not None and call_log.is_on(call_log.DEBUG):
        call_log.say("set", key, detail=f"{total}, by incr()")
    return total


SWAP = for_both_tables(
    f"""UPDATE {{table}} SET value = %(value)s::bytea, number = %(number)s::int8, codec = %(codec)s::int2
    WHERE key = %(key)s::text AND value IS NOT DISTINCT FROM %(value_before)s::bytea
    AND number IS NOT DISTINCT FROM %(number_before)s::int8 AND {LIVE}""",
    "key value number codec value_before number_before",
)
