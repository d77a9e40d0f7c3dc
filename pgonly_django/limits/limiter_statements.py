"""The SQL of limiters: their two buckets, their slots and the queue before them.

A bucket fills at its rate, and holds half a second's worth and one more: no more than this comes on top of the rate
after any pause. It may be drawn below zero, by a reservation that is larger than the bucket or by more use than was
reserved: then all wait until it is filled up again. In the arithmetic `l` is the limiter's row, and `clock` has the
column `now`. All times are the database's.
"""

from pgonly_django.database.statement import Statement
from pgonly_django.limits.renewal import LEASE_SECONDS
from pgonly_django.tables import qualified

CHANNEL = "pgonly_limiter"
# After a restart of PostgreSQL the holders, which are still inside, get some time to renew.
SETTLE_SECONDS = LEASE_SECONDS / 2
# A waiter looks every second. A waiter that has not looked for this time counts as dead.
WAITER_SECONDS = 4
# With this number of waiters before it, a waiter looks every 5 s: a thousand cost as much as two hundred.
FAR, FAR_SECONDS = 20, 15


def _left(bucket: str, limit: str) -> str:
    """Returns SQL for what is in the bucket now: half a second's worth of a rate per minute at most. NULL: no limit."""
    capacity = f"(1 + l.{limit} / 120)"
    filled = f"l.{bucket} + l.{limit} / 60 * greatest(extract(epoch FROM now - l.refilled_at), 0)"
    return f"least({capacity}, coalesce({filled}, {capacity}))"


_REQUESTS_LEFT = _left("requests", "requests_per_minute")
_TOKENS_LEFT = _left("tokens", "tokens_per_minute")
# What must be in the bucket for a reservation: not all of it where that is much, or the time from when the bucket is
# full until the caller comes would be lost.
_REQUESTS_NEEDED = "least(%(requests)s::float8, 1 + l.requests_per_minute / 240)"
_TOKENS_NEEDED = "least(%(tokens)s::float8, 1 + l.tokens_per_minute / 240)"
_HAS_ENOUGH = f"""(l.requests_per_minute IS NULL OR {_REQUESTS_LEFT} >= {_REQUESTS_NEEDED})
        AND (l.tokens_per_minute IS NULL OR {_TOKENS_LEFT} >= {_TOKENS_NEEDED})"""
# The seconds until the buckets have enough; NULL if they have.
_SECONDS_UNTIL_ENOUGH = f"""greatest(({_REQUESTS_NEEDED} - {_REQUESTS_LEFT}) * 60 / l.requests_per_minute,
        ({_TOKENS_NEEDED} - {_TOKENS_LEFT}) * 60 / l.tokens_per_minute)"""
# For SET: takes numbers out of the buckets (or puts them back, if they are negative).
_DRAW = f"""requests = {_REQUESTS_LEFT} - %(requests)s::float8, tokens = {_TOKENS_LEFT} - %(tokens)s::float8,
        refilled_at = greatest(l.refilled_at, now)"""


def is_free(slot: str) -> str:
    """Returns SQL that is true when this row has no holder, or its holder is dead."""
    is_settled = f"pg_postmaster_start_time() < clock_timestamp() - interval '{SETTLE_SECONDS} seconds'"
    return f"({slot}.holder IS NULL OR {slot}.expires_at <= clock_timestamp() AND {is_settled})"


# The caller that has waited longest. Index: pgonly_limiter_waiter_next.
_NEXT = qualified("""SELECT id FROM pgonly_limiter_waiter
        WHERE limiter = %(name)s::text AND id <> %(id)s::uuid AND expires_at > clock_timestamp()
        ORDER BY ticket LIMIT 1""")
# What payload() of database/listener.py makes of the waiter's id.
_NOTIFY = f"pg_notify('{CHANNEL}', left(encode(sha256(id::text::bytea), 'hex'), 32))"

# Whether a caller may come in, except that it needs a slot. It is asked twice: so that no caller locks a slot that it
# cannot have (the first caller would skip it), and then of the newest version of the limiter's row.
_MAY_ENTER = f"""l.name = %(name)s::text AND coalesce(l.blocked_until <= clock_timestamp(), true)
            AND NOT EXISTS (SELECT FROM had) AND NOT EXISTS (SELECT FROM ahead)
            AND {_HAS_ENOUGH}"""

# Lets one caller in, or gives it a ticket in the queue. The rows of slots up to `concurrent` count. Where a limit was
# lowered and slots above it are still held, as many of the lowest free slots stay empty: so no more than the limit are
# held, in any order. Indexes: the primary keys, pgonly_limiter_slot_number and _holder, pgonly_limiter_waiter_next.
ENTER = Statement(
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
    WHERE {_MAY_ENTER} AND s.number <= l.concurrent AND {is_free("s")}
        AND s.number = ANY(ARRAY(
            SELECT low.number FROM pgonly_limiter_slot AS low
            WHERE low.limiter = %(name)s::text AND low.number <= l.concurrent AND {is_free("low")}
            ORDER BY low.number OFFSET (
                SELECT count(*) FROM pgonly_limiter_slot AS high WHERE high.limiter = %(name)s::text
                    AND high.number > l.concurrent AND NOT {is_free("high")})))
    ORDER BY s.number LIMIT 1 FOR NO KEY UPDATE OF s SKIP LOCKED
),
drawn AS (
    UPDATE pgonly_limiter AS l SET {_DRAW} FROM clock
    WHERE {_MAY_ENTER} AND (l.concurrent IS NULL OR EXISTS (SELECT FROM slot))
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
woken AS MATERIALIZED (SELECT {_NOTIFY} FROM ({_NEXT}) AS next WHERE EXISTS (SELECT FROM drawn))
SELECT EXISTS (SELECT FROM drawn) OR EXISTS (SELECT FROM had), l.concurrent IS NOT NULL,
    coalesce(l.concurrent > (SELECT count(*) FROM pgonly_limiter_slot AS s
        WHERE s.limiter = %(name)s::text AND s.number <= l.concurrent), false),
    CASE WHEN NOT EXISTS (SELECT FROM ahead) THEN ceil(1000 * least(1e9, greatest(
        extract(epoch FROM l.blocked_until - now), {_SECONDS_UNTIL_ENOUGH}, 0)))::int8 END,
    (SELECT count(*) = {FAR} FROM ahead), (SELECT count(*) FROM woken)
FROM pgonly_limiter AS l, clock WHERE l.name = %(name)s::text""")
)

# The rows that are a limiter's slots: as many as its limit of `concurrent`. Index: pgonly_limiter_slot_number.
ADD_SLOTS = Statement(
    qualified("""INSERT INTO pgonly_limiter_slot (limiter, number, who)
    SELECT name, number, '' FROM pgonly_limiter, generate_series(1, concurrent) AS number
    WHERE name = %(name)s::text ON CONFLICT (limiter, number) DO NOTHING""")
)

# Index: pgonly_limiter_slot_holder.
RENEW_SLOTS = Statement(
    qualified("""UPDATE pgonly_limiter_slot
    SET expires_at = clock_timestamp() + %(lease)s::float8 * interval '1 second'
    WHERE holder = ANY(%(ids)s::uuid[]) RETURNING holder""")
)

# What was used beyond the reservation is drawn from the buckets, where there was a slot together with that: so it is
# drawn once, however often this is sent. First the slot, then the limiter: as entering locks them.
# Indexes: the primary key, pgonly_limiter_slot_holder, the key on the waiter's id.
LEAVE = Statement(
    qualified(f"""WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
    released AS (
        UPDATE pgonly_limiter_slot SET holder = NULL, who = '', taken_at = NULL, expires_at = NULL
        WHERE holder = %(id)s::uuid RETURNING id
    ),
    corrected AS (
        UPDATE pgonly_limiter AS l SET {_DRAW} FROM clock
        WHERE l.name = %(name)s::text AND (%(requests)s::float8 <> 0 OR %(tokens)s::float8 <> 0)
            AND (%(has_slot)s::int4 = 0 OR EXISTS (SELECT FROM released)) RETURNING l.name
    ),
    left_queue AS (DELETE FROM pgonly_limiter_waiter WHERE id = %(id)s::uuid RETURNING id),
    dead AS (
        DELETE FROM pgonly_limiter_waiter WHERE ticket = ANY(ARRAY(
            SELECT ticket FROM (SELECT ticket, expires_at FROM pgonly_limiter_waiter
                WHERE limiter = %(name)s::text ORDER BY ticket LIMIT 20) AS first
            WHERE expires_at < clock_timestamp() - interval '1 minute'))
    ),
    woken AS MATERIALIZED (SELECT {_NOTIFY}, id FROM ({_NEXT}) AS next)
    SELECT (SELECT count(*) FROM released), (SELECT id FROM woken)""")
)

# Wakes the first waiter, unless it is `told`, which may have got another slot that LEAVE did not see yet.
WAKE = Statement(qualified(f"SELECT {_NOTIFY} FROM ({_NEXT}) AS next WHERE id <> %(told)s::uuid"))

# The tickets of a process that ends, all at once. Indexes: the key on the waiter's id, pgonly_limiter_waiter_next.
LEAVE_QUEUES = Statement(
    qualified(f"""WITH gone AS (DELETE FROM pgonly_limiter_waiter WHERE id = ANY(%(ids)s::uuid[]) RETURNING limiter)
    SELECT {_NOTIFY} FROM (SELECT DISTINCT limiter FROM gone) AS queue CROSS JOIN LATERAL (
        SELECT id FROM pgonly_limiter_waiter AS waiter WHERE waiter.limiter = queue.limiter
            AND id <> ALL(%(ids)s::uuid[]) AND expires_at > clock_timestamp()
        ORDER BY ticket LIMIT 1) AS next""")
)

# Index: the primary key. Of two cool-downs that overlap the longer one counts.
COOL_DOWN = Statement(
    qualified("""UPDATE pgonly_limiter
    SET blocked_until = greatest(blocked_until, clock_timestamp() + %(seconds)s::float8 * interval '1 second')
    WHERE name = %(name)s::text RETURNING name""")
)
