"""The statement that lets one caller into a limiter, or gives it a ticket in the queue before it."""

from dataclasses import dataclass
from typing import Any

from pgonly_django.database.operation import Operation
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement, integer
from pgonly_django.limits import bucket
from pgonly_django.limits.pool_user import call
from pgonly_django.limits.slots import is_free
from pgonly_django.limits.wake import NEXT, NOTIFY
from pgonly_django.tables import qualified

# A waiter looks every second. One that has not looked for so long counts as dead.
WAITER_SECONDS = 4
# With so many before it, it looks every 5 s: a thousand waiters cost as much as two hundred.
FAR, FAR_SECONDS = 20, 15
_TRUE = b"\x01"


@dataclass(frozen=True, slots=True)
class Look:
    """What PostgreSQL says to one who wants to get in."""

    is_in: bool
    has_slot: bool  # the limiter has a limit of `concurrent`
    lacks_slots: bool  # and fewer rows than that
    wait_seconds: float | None  # until there is something to get; None: until somebody leaves
    is_far: bool  # many are before it


# But for a slot. Asked twice: so that no caller locks a slot that it cannot have (the first one would skip it), and
# then of the newest version of the limiter's row.
MAY_ENTER = f"""l.name = %(name)s::text AND coalesce(l.blocked_until <= clock_timestamp(), true)
            AND NOT EXISTS (SELECT FROM had) AND NOT EXISTS (SELECT FROM ahead)
            AND {bucket.HAS_ENOUGH}"""

# The rows of slots up to `concurrent` count. Where a limit was lowered and slots above it are still held, so many
# of the lowest free ones stay empty: so together they are never more than the limit, in whatever order they come.
# Indexes: the primary keys, pgonly_limiter_slot_number and _holder, pgonly_limiter_waiter_next.
TRY = Statement(
    qualified(f"""WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
mine AS MATERIALIZED (SELECT ticket FROM pgonly_limiter_waiter WHERE id = %(id)s::uuid),
ahead AS MATERIALIZED (
    SELECT FROM pgonly_limiter_waiter
    WHERE limiter = %(name)s::text AND expires_at > clock_timestamp()
        AND ticket < coalesce((SELECT ticket FROM mine), {2**63 - 1}) LIMIT {FAR}
),
alive AS MATERIALIZED (SELECT interval '1 second' * CASE WHEN count(*) < {FAR} THEN {WAITER_SECONDS}
    ELSE {FAR_SECONDS} END AS duration FROM ahead),
had AS MATERIALIZED (SELECT FROM pgonly_limiter_slot WHERE holder = %(id)s::uuid),
slot AS MATERIALIZED (
    SELECT s.id FROM clock, pgonly_limiter AS l JOIN pgonly_limiter_slot AS s ON s.limiter = l.name
    WHERE {MAY_ENTER} AND s.number <= l.concurrent AND {is_free("s")}
        AND s.number = ANY(ARRAY(
            SELECT low.number FROM pgonly_limiter_slot AS low
            WHERE low.limiter = %(name)s::text AND low.number <= l.concurrent AND {is_free("low")}
            ORDER BY low.number OFFSET (
                SELECT count(*) FROM pgonly_limiter_slot AS high WHERE high.limiter = %(name)s::text
                    AND high.number > l.concurrent AND NOT {is_free("high")})))
    ORDER BY s.number LIMIT 1 FOR NO KEY UPDATE OF s SKIP LOCKED
),
drawn AS (
    UPDATE pgonly_limiter AS l SET {bucket.DRAW} FROM clock
    WHERE {MAY_ENTER} AND (l.concurrent IS NULL OR EXISTS (SELECT FROM slot))
    RETURNING l.name
),
taken AS (
    UPDATE pgonly_limiter_slot AS s SET holder = %(id)s::uuid, who = %(who)s::text, taken_at = now,
        expires_at = now + %(lease)s::float8 * interval '1 second'
    FROM drawn, slot, clock WHERE s.id = slot.id RETURNING s.id
),
left_queue AS (
    DELETE FROM pgonly_limiter_waiter WHERE id = %(id)s::uuid AND EXISTS (SELECT FROM drawn) RETURNING id
),
entered AS (
    INSERT INTO pgonly_limiter_waiter (id, limiter, who, tokens, since, expires_at)
    SELECT %(id)s::uuid, name, %(who)s::text, %(tokens)s::float8, now, now + duration
    FROM pgonly_limiter, clock, alive WHERE name = %(name)s::text AND %(may_wait)s::int4 = 1
        AND NOT EXISTS (SELECT FROM drawn) AND NOT EXISTS (SELECT FROM had) AND NOT EXISTS (SELECT FROM mine)
    ON CONFLICT (id) DO NOTHING RETURNING id
),
stayed AS (
    UPDATE pgonly_limiter_waiter SET expires_at = now + duration FROM clock, alive
    WHERE id = %(id)s::uuid AND NOT EXISTS (SELECT FROM drawn)
        AND expires_at < now + duration / 2 RETURNING id
),
woken AS MATERIALIZED (SELECT {NOTIFY} FROM ({NEXT}) AS next WHERE EXISTS (SELECT FROM drawn))
SELECT EXISTS (SELECT FROM drawn) OR EXISTS (SELECT FROM had), l.concurrent IS NOT NULL,
    coalesce(l.concurrent > (SELECT count(*) FROM pgonly_limiter_slot AS s
        WHERE s.limiter = %(name)s::text AND s.number <= l.concurrent), false),
    CASE WHEN NOT EXISTS (SELECT FROM ahead) THEN ceil(1000 * least(1e9, greatest(
        extract(epoch FROM l.blocked_until - now), {bucket.SECONDS_UNTIL_ENOUGH}, 0)))::int8 END,
    (SELECT count(*) = {FAR} FROM ahead), (SELECT count(*) FROM woken)
FROM pgonly_limiter AS l, clock WHERE l.name = %(name)s::text""")
)


def look(pool: Pool, params: dict[str, Any]) -> Operation[Look | None]:
    """Try to get in, with the parameters of TRY. None: there is no such limiter. Raises LimitsError."""
    result = yield from call(pool, TRY, **params)
    if not result.ntuples:
        return None
    is_in, has_slot, lacks_slots, is_far = (result.get_value(0, column) == _TRUE for column in (0, 1, 2, 4))
    milliseconds = result.get_value(0, 3)
    wait_seconds = integer(milliseconds) / 1000 if milliseconds is not None else 0.0
    return Look(is_in, has_slot, lacks_slots, wait_seconds or None, is_far)
