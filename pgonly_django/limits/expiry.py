"""The duties of workers for budgets: reservations of dead processes count as spent, held jobs continue where a budget
has begun a new period or has a higher cap, and the costs of calls are kept for 90 days."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import router
from django.db.models.functions import Coalesce

from pgonly_django.database.on_django import all_rows
from pgonly_django.limits.renewal import LEASE_SECONDS
from pgonly_django.models import Budget, Job
from pgonly_django.models.budget import HELD_BY, NEXT_PERIOD, PERIOD, PERIOD_START, SPENT
from pgonly_django.tables import qualified

ADVISORY_LOCK = 0x70676F6E_10  # "pgon"; two workers that count at once could wait for each other's budgets
BATCH = 1000
# settle() of a process that stood still corrects what was counted, within this time.
CORRECTED_DAYS = 1

# After a start of the server the processes get a lease to renew what they hold. A reservation of an earlier period is
# spent in that period. A step that was saved has noted what its call has cost: this counts, not the reserved amount. A
# budget whose row another transaction holds waits for the next time, and keeps no other waiting. Index:
# pgonly_reservation_expiry, the primary keys, pgonly_cost_reservation.
EXPIRE = qualified(f"""
WITH expired AS MATERIALIZED (
    SELECT *, (SELECT known.usd FROM pgonly_cost AS known WHERE known.reservation = r.id) AS known
    FROM pgonly_reservation AS r
    WHERE NOT is_expired AND expires_at < statement_timestamp()
        AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => %(settle_seconds)s)
        AND pg_try_advisory_xact_lock({ADVISORY_LOCK})
    ORDER BY expires_at LIMIT {BATCH} FOR UPDATE OF r SKIP LOCKED
),
free AS MATERIALIZED (
    SELECT name FROM pgonly_budget WHERE name = ANY (ARRAY (SELECT budget FROM expired)) FOR UPDATE SKIP LOCKED
),
due AS MATERIALIZED (
    SELECT * FROM expired WHERE budget = ANY (ARRAY (SELECT name FROM free))
        OR NOT EXISTS (SELECT FROM pgonly_budget AS b WHERE b.name = expired.budget)
),
marked AS (
    UPDATE pgonly_reservation AS r SET
        is_expired = true, usd = coalesce(due.known, due.usd),
        expires_at = clock_timestamp() + interval '{CORRECTED_DAYS} days'
    FROM due WHERE r.id = due.id
),
counted AS (
    UPDATE pgonly_budget AS b SET
        spent = {SPENT} + coalesce((SELECT sum(coalesce(due.known, due.usd)) FROM due
            WHERE due.budget = b.name AND coalesce(due.expires_at >= {PERIOD}, true)), 0),
        reserved = greatest(b.reserved - (SELECT sum(due.usd) FROM due WHERE due.budget = b.name), 0),
        period_start = {PERIOD_START}
    WHERE b.name = ANY (ARRAY (SELECT budget FROM due))
),
noted AS (
    INSERT INTO pgonly_cost (reservation, job_id, task, queue, budget, step, usd, is_estimate)
    SELECT id, job_id, task, queue, budget, step, usd, true FROM due
    ON CONFLICT (reservation) WHERE reservation IS NOT NULL DO NOTHING
)
SELECT id, budget, coalesce(known, usd), job_id, task, known IS NOT NULL FROM due
""")

# Index: pgonly_reservation_expiry.
FORGET = qualified("""
DELETE FROM pgonly_reservation WHERE is_expired AND expires_at < statement_timestamp() RETURNING id
""")

# Index: pgonly_reservation_expiry.
ANY_OPEN = qualified("SELECT id FROM pgonly_reservation WHERE NOT is_expired ORDER BY expires_at LIMIT 1")


class ExpiredReservation(NamedTuple):
    id: UUID
    budget: str
    usd: Decimal
    job_id: UUID | None
    task: str
    is_known: bool  # `usd` is what the call has cost, not what was reserved


def expire(settle_seconds: float = LEASE_SECONDS) -> list[ExpiredReservation]:
    """Counts one batch of expired reservations as spent. After a full batch there may be more. No reservation expires
    within `settle_seconds` of a start of the server."""
    alias = router.db_for_write(Budget)
    expired = [
        ExpiredReservation(*row) for row in all_rows(alias, EXPIRE, {"settle_seconds": settle_seconds})
    ]
    all_rows(alias, FORGET)
    return expired


def is_any_open() -> bool:
    return bool(all_rows(router.db_for_write(Budget), ANY_OPEN))


# What holds jobs, by a loose scan: one descent of pgonly_job_held for each, however many jobs it holds.
HOLDERS = qualified("""
WITH RECURSIVE holder(name) AS (
    (SELECT held_by FROM pgonly_job WHERE held_by IS NOT NULL ORDER BY held_by LIMIT 1)
    UNION ALL
    SELECT (SELECT job.held_by FROM pgonly_job AS job
            WHERE job.held_by IS NOT NULL AND job.held_by > holder.name ORDER BY job.held_by LIMIT 1)
    FROM holder WHERE holder.name IS NOT NULL
)
SELECT name FROM holder WHERE starts_with(name, %(prefix)s)
""")

# The budgets that have room, and since when. Index: the primary key.
HAVE_ROOM = qualified(f"""
SELECT b.name, greatest(b.resumed_at, {PERIOD}) FROM pgonly_budget AS b
WHERE b.name = ANY (%(names)s) AND {SPENT} + b.reserved < b.usd AND coalesce(b.resumed_at, {PERIOD}) IS NOT NULL
""")


# Index: the primary key.
NEXT_PERIOD_IN = qualified(f"""
SELECT date_part('epoch', min({NEXT_PERIOD}) - clock_timestamp()) FROM pgonly_budget AS b WHERE b.name = ANY (%(names)s)
""")


def next_period_in_seconds(names: list[str]) -> float | None:
    """Returns the seconds until the first of these budgets begins a new period; None where none of them has periods."""
    ((seconds,),) = all_rows(router.db_for_write(Budget), NEXT_PERIOD_IN, {"names": names})
    return None if seconds is None else float(seconds)


def holding_budgets(jobs_alias: str) -> list[str]:
    return [name.removeprefix(HELD_BY) for (name,) in all_rows(jobs_alias, HOLDERS, {"prefix": HELD_BY})]


def resume_held(jobs_alias: str, names: list[str]) -> int:
    """Lets the held jobs of these budgets continue whose last run began before the present period, or before the cap
    was raised: also a job that was refused before and written as held afterwards. Returns how many."""
    have_room = all_rows(router.db_for_write(Budget), HAVE_ROOM, {"names": names})
    jobs = Job.objects.using(jobs_alias).alias(began=Coalesce("attempted_at", "enqueued_at"))
    return sum(jobs.filter(began__lt=since).held(f"{HELD_BY}{name}").resume() for name, since in have_room)


KEPT_DAYS = 90

# The budgets keep their sums. Index: pgonly_cost_at, a range of it, and the primary key.
PRUNE_COSTS = qualified("""
DELETE FROM pgonly_cost WHERE id = ANY (ARRAY (
    SELECT id FROM pgonly_cost WHERE at < statement_timestamp() - make_interval(days => %(kept_days)s)
    ORDER BY at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)) RETURNING id
""")


def prune_costs(alias: str, limit: int) -> int:
    """Deletes one batch of old costs. Returns their number."""
    return len(all_rows(alias, PRUNE_COSTS, {"kept_days": KEPT_DAYS, "limit": limit}))
