"""Changes entries that exist: sums, and when they expire. The primary key serves every statement here."""

from typing import Any

from psycopg.errors import NumericValueOutOfRange

from pgonly_django.cache import call_log
from pgonly_django.cache.durations import LONGEST_SECONDS
from pgonly_django.cache.entry import LIVE, SET_EXPIRY, SIZE, VALUE, after, for_both_tables
from pgonly_django.cache.store import Store, seconds_param
from pgonly_django.database.operation import Operation
from pgonly_django.database.statement import integer
from pgonly_django.exceptions import CacheError

SWAPS = 20  # attempts to write the sum before other callers change the value, where it is not in `number`


def incr(store: Store, key: bytes, delta: Any, name: Any) -> Operation[Any]:
    """Returns the sum. Raises ValueError without the key (the caller's `name`), TypeError where it is no number."""
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


INCR = for_both_tables(
    f"""UPDATE {{table}} SET number = number + %(delta)s::int8
    WHERE key = %(key)s::text AND number IS NOT NULL AND {LIVE} RETURNING number""",
    "key delta",
)


def _add(store: Store, key: bytes, delta: int) -> Operation[int | None]:
    """Returns the sum; None where the entry is not an integer in `number`, or the sum needs more than 64 bits."""
    try:
        result = yield from store.send(INCR, [key, b"%d" % delta])
    except CacheError as error:
        if isinstance(error.__cause__, NumericValueOutOfRange):
            return None
        raise
    total = integer(result.get_value(0, 0)) if result.ntuples else None
    if total is not None:
        call_log.say("set", key, detail=f"{total}, by incr()")
    return total


SWAP = for_both_tables(
    f"""UPDATE {{table}} SET value = %(value)s::bytea, number = %(number)s::int8, codec = %(codec)s::int2
    WHERE key = %(key)s::text AND value IS NOT DISTINCT FROM %(value_before)s::bytea
    AND number IS NOT DISTINCT FROM %(number_before)s::int8 AND {LIVE}""",
    "key value number codec value_before number_before",
)


TTL = for_both_tables(
    f"""SELECT expires_at IS NULL, coalesce(date_part('epoch', expires_at - clock_timestamp()) * 1000, 0)::int8
    FROM {{table}} WHERE key = %(key)s::text AND {LIVE}"""
)


def pttl(store: Store, key: bytes) -> Operation[int | None]:
    """Returns milliseconds until `key` expires; None when it never expires, and 0 when it does not exist."""
    result = yield from store.call(TTL, key=key)
    if not result.ntuples:
        return 0
    return None if result.get_value(0, 0) == b"\x01" else max(1, integer(result.get_value(0, 1)))


_TOUCH = (
    f"UPDATE {{table}} {SET_EXPIRY} FROM {after('%(seconds)s::float8')} WHERE key = %(key)s::text AND {LIVE}"
)
TOUCH = for_both_tables(_TOUCH, "key seconds")


def touch(store: Store, key: bytes, seconds: float | None) -> Operation[bool]:
    """Lets `key` expire after this number of seconds. Returns False when there is no such key."""
    if seconds is not None and seconds <= 0:
        return (yield from store.delete(key))
    result = yield from store.send(TOUCH, [key, seconds_param(seconds)])
    return result.command_tuples == 1


EXPIRE_AT = for_both_tables(
    f"""UPDATE {{table}} {SET_EXPIRY} FROM (SELECT to_timestamp(%(timestamp)s::float8)) AS x (e)
    WHERE key = %(key)s::text AND {LIVE} RETURNING e <= clock_timestamp()"""
)
DELETE_EXPIRED = for_both_tables(
    "DELETE FROM {table} WHERE key = %(key)s::text AND expires_at <= clock_timestamp() RETURNING " + SIZE
)


def expire_at(store: Store, key: bytes, timestamp: float) -> Operation[bool]:
    """Lets `key` expire at a moment, in seconds since 1970. Returns False when there is no such key."""
    if timestamp <= 0:
        return (yield from store.delete(key))
    if timestamp > LONGEST_SECONDS:
        return (yield from touch(store, key, None))
    result = yield from store.call(EXPIRE_AT, key=key, timestamp=timestamp)
    if not result.ntuples:
        return False
    # An entry that is over by the database's clock is deleted, or get_or_set() would show it stale.
    if result.get_value(0, 0) == b"\x01":
        result = yield from store.call(DELETE_EXPIRED, key=key)
        if result.ntuples:
            yield from store.removed(1, integer(result.get_value(0, 0)))
    return True


PERSIST = for_both_tables(
    """UPDATE {table} SET expires_at = NULL, prune_minute = NULL
    WHERE key = %(key)s::text AND expires_at > clock_timestamp()"""
)


def persist(store: Store, key: bytes) -> Operation[bool]:
    """Lets `key` never expire. Returns False when it had no expiry, or does not exist."""
    result = yield from store.call(PERSIST, key=key)
    return result.command_tuples == 1


GET_AND_TOUCH = for_both_tables(f"{_TOUCH} RETURNING {VALUE}", "key seconds")


def get_and_touch(store: Store, key: bytes, default: Any, seconds: float | None) -> Operation[Any]:
    if seconds is not None and seconds <= 0:
        value = yield from store.get(key, default)
        yield from store.delete(key)
        return value
    result = yield from store.send(GET_AND_TOUCH, [key, seconds_param(seconds)])
    return (yield from store.value_or(default, key, result))
