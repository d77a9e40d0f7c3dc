"""At most so many requests in any period: a sliding window in one row, for throttles (throttling/).

It is the log of a sliding window: the row has the time of each request that was admitted, so any period, wherever it
begins, has at most `limit` of them. Above 128 a time stands for a group of requests, the last of the group, which keeps
the row below 1.2 KB; the limit is then held as exactly, and up to 1 % of it may become free later than they could.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pgonly_django.cache import call_log
from pgonly_django.cache.entry import LIVE, SIZE, minute_of
from pgonly_django.cache.statement import for_both_tables
from pgonly_django.cache.store import Store
from pgonly_django.database.operation import Operation
from pgonly_django.database.statement import integer

TIMES_AT_MOST = 128
LONGEST_PERIOD_SECONDS = 366 * 24 * 3600

_MICROSECONDS = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"
_EXPIRES_AT = "clock_timestamp() + %(period)s::int8 * interval '1 microsecond'"

# `number` counts the admitted requests of the period. `value` has a byte that says whether the last request was one of
# them, and times of 8 bytes each, oldest first; those compare as bytes do. The entry reads as its number.
# At most one time is dropped a request, since each request adds at most one. clock_timestamp() is read under the lock
# of the row. A refused request writes the row, too: without that the statement could not return what it says.
# Served by the primary key.
ADMIT = for_both_tables(
    f"""INSERT INTO {{table}} AS entry (key, value, number, codec, expires_at, prune_minute)
    SELECT %(key)s::text, '\\x01'::bytea || int8send({_MICROSECONDS}), 1, 0, e, {minute_of("e")}
    FROM (SELECT {_EXPIRES_AT}) AS x (e)
    ON CONFLICT (key) DO UPDATE
    SET (value, number, codec, expires_at, prune_minute, tags, claim, claimed_until) = (
        SELECT CASE
            WHEN NOT fits THEN '\\x00'::bytea || times
            WHEN counted < octet_length(times) / 8 * %(group_size)s::int8
            THEN '\\x01'::bytea || substring(times FOR octet_length(times) - 8) || int8send(now)
            ELSE '\\x01'::bytea || times || int8send(now) END,
        counted + fits::int, 0, e, {minute_of("e")}, NULL::text[], NULL::int8, NULL::timestamptz
        FROM (SELECT {_MICROSECONDS}, {_EXPIRES_AT}) AS clock (now, ahead),
        LATERAL (SELECT coalesce({LIVE.replace("expires_at", "entry.expires_at")} AND entry.codec = 0
            AND octet_length(entry.value) > 8, false)) AS old (counts),
        LATERAL (SELECT CASE WHEN counts THEN substring(entry.value FROM 2) ELSE '' END,
            CASE WHEN counts THEN entry.number ELSE 0 END) AS found (every, number),
        LATERAL (SELECT substring(every FOR 8) <= int8send(now - %(period)s::int8) AND every <> '') AS first (is_over),
        LATERAL (SELECT CASE WHEN is_over THEN substring(every FROM 9) ELSE every END,
            CASE WHEN is_over THEN greatest(found.number - %(group_size)s::int8, 0) ELSE found.number END
            ) AS kept (times, counted),
        LATERAL (SELECT counted < %(limit)s::int8) AS room (fits),
        LATERAL (SELECT CASE WHEN fits THEN ahead ELSE entry.expires_at END) AS x (e))
    RETURNING get_byte(value, 0), substring(value FROM 2 FOR 8), {_MICROSECONDS}, number, xmax = 0, {SIZE}""",
    "key limit period group_size",
)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a request got. `wait_seconds` is 0 for an admitted one, else the time until one may be."""

    admitted: bool
    wait_seconds: float
    counted: int  # admitted requests in the period, this one too


def admit(store: Store, key: bytes, limit: int, seconds: float) -> Operation[Admission]:
    """Whether a request is one of at most `limit` in any `seconds`; it counts if it is. One statement."""
    if not 0 < seconds <= LONGEST_PERIOD_SECONDS:
        raise ValueError(
            f"The period must be between 0 and {LONGEST_PERIOD_SECONDS} seconds, got {seconds!r}."
        )
    if limit <= 0:
        return Admission(admitted=False, wait_seconds=float(seconds), counted=0)
    period, group_size = round(seconds * 1_000_000), math.ceil(limit / TIMES_AT_MOST)
    result = yield from store.send(ADMIT, [key, b"%d" % limit, b"%d" % period, b"%d" % group_size])
    is_admitted, oldest, now, counted, is_new, size = (result.get_value(0, column) for column in range(6))
    if store.counters.wrote(
        entries=is_new == b"\x01", size=integer(size) * (is_new == b"\x01"), written=integer(size)
    ):
        yield from store.eviction.clean()
    wait = 0.0 if integer(is_admitted) else max(integer(oldest) + period - integer(now), 1) / 1_000_000
    if call_log.is_on(call_log.DEBUG):
        call_log.say("set", key, detail=f"{integer(counted)} of {limit} requests")
    return Admission(bool(integer(is_admitted)), wait, integer(counted))
