"""Leaving a limiter, and leaving the queue before it."""

import contextlib
from uuid import UUID

from pgonly_django.database.operation import Operation, run
from pgonly_django.database.pool import Pool
from pgonly_django.database.statement import Statement, integer
from pgonly_django.exceptions import LimitsError
from pgonly_django.limits import bucket
from pgonly_django.limits.background import background
from pgonly_django.limits.pool_user import call
from pgonly_django.limits.renewal import LEASE_SECONDS
from pgonly_django.limits.wake import NEXT, NOTIFY, wake_other
from pgonly_django.tables import qualified

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
        UPDATE pgonly_limiter AS l SET {bucket.DRAW} FROM clock
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
    woken AS MATERIALIZED (SELECT {NOTIFY}, id FROM ({NEXT}) AS next)
    SELECT (SELECT count(*) FROM released), (SELECT id FROM woken)""")
)


def leave(
    pool: Pool, holder: UUID, name: str, has_slot: bool, requests: float = 0, tokens: float = 0
) -> Operation[bool]:
    """Give back the slot or the ticket, and draw what was used beyond the reservation (below zero: put it back).
    Whether there was a slot. Raises LimitsError."""
    result = yield from call(
        pool, LEAVE, id=holder, name=name, has_slot=int(has_slot), requests=requests, tokens=tokens
    )
    if (told := result.get_value(0, 1)) is not None:
        with contextlib.suppress(LimitsError):  # the next one looks by itself within a second
            yield from wake_other(pool, name, holder, UUID(bytes=bytes(told)))
    return integer(result.get_value(0, 0)) > 0


def leave_later(
    pool: Pool, holder: UUID, name: str, has_slot: bool, requests: float = 0, tokens: float = 0
) -> None:
    """leave() in the background, tried again until the lease is over: then the slot is free anyway."""
    background.add(lambda: run(leave(pool, holder, name, has_slot, requests, tokens)), LEASE_SECONDS)


def take_back(pool: Pool, holder: UUID, name: str, requests: float, tokens: float) -> None:
    """leave() in the background for one that was cut off while PostgreSQL was at it: the slot may be taken only later,
    also by one whose ticket is there already. The whole reservation is put back together with a slot."""
    background.undo(lambda: run(leave(pool, holder, name, has_slot=True, requests=-requests, tokens=-tokens)))
