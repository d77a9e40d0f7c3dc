"""Limiters, budgets and schedules: what is in use of each, and what is due next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from django.db import connections, router
from django.db.models import Case, Count, IntegerField, OuterRef, Subquery, Value, When
from django.db.models.functions import Coalesce

from pgonly_django.models import Budget, Job, Limiter, LimiterSlot, LimiterWaiter, Schedule
from pgonly_django.models.budget import HELD_BY
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.monitoring.queues import Counted, capped
from pgonly_django.tables import qualified

LIMITERS_AT_MOST = 50
BUDGETS_AT_MOST = 20
BUDGETS_READ = 1_000
HELD_AT_MOST = 10_000
SCHEDULES_AT_MOST = 20


def _count_of(rows: Any) -> Coalesce:
    """Returns SQL for the number of `rows` that a limiter has, 0 included."""
    counted = rows.filter(limiter=OuterRef("name")).order_by().values("limiter").annotate(n=Count("*"))
    return Coalesce(Subquery(counted.values("n"), output_field=IntegerField()), 0)


HELD = LimiterSlot.objects.filter(holder__isnull=False, expires_at__gt=ClockTimestamp())
LIVE_WAITERS = LimiterWaiter.objects.filter(expires_at__gt=ClockTimestamp())
# For annotate(): what is in use of a row of Limiter. `now` is the database's clock.
LIMITER_USE = {"now": ClockTimestamp(), "held": _count_of(HELD), "waiters": _count_of(LIVE_WAITERS)}


def limiters(alias: str) -> list[Any]:
    """Returns LIMITERS_AT_MOST rows, annotated with LIMITER_USE: those that cool down first. Index:
    pgonly_limiter_slot_number and pgonly_limiter_waiter_next, one range for each limiter; pgonly_limiter is small."""
    cools_down = Case(When(blocked_until__gt=ClockTimestamp(), then=Value(0)), default=Value(1))
    rows: Sequence[Any] = Limiter.objects.using(alias).annotate(**LIMITER_USE).order_by(cools_down, "name")
    return list(rows[:LIMITERS_AT_MOST])


# Index: pgonly_job_held, one descent for each budget that holds jobs, BUDGETS_AT_MOST.
HOLDING = qualified(f"""
WITH RECURSIVE holding(held_by) AS (
    (SELECT held_by FROM pgonly_job WHERE held_by IS NOT NULL AND held_by >= %(first)s::text ORDER BY held_by LIMIT 1)
    UNION ALL
    SELECT (SELECT job.held_by FROM pgonly_job AS job
            WHERE job.held_by IS NOT NULL AND job.held_by > holding.held_by ORDER BY job.held_by LIMIT 1)
    FROM holding WHERE starts_with(holding.held_by, %(first)s::text)
)
SELECT held_by FROM holding WHERE starts_with(held_by, %(first)s::text) LIMIT {BUDGETS_AT_MOST}
""")


def budgets(alias: str) -> list[Any]:
    """Returns BUDGETS_AT_MOST rows, annotated with spent_now and held_jobs: those that hold jobs, then those with the
    largest part of their cap spent or reserved, of the first BUDGETS_READ by name."""
    with connections[router.db_for_read(Job)].cursor() as cursor:
        cursor.execute(HOLDING, {"first": HELD_BY})
        holding = held_jobs(holder.removeprefix(HELD_BY) for (holder,) in cursor.fetchall())
    rows: Any = Budget.objects.using(alias).with_spent_now()
    found = [*rows.filter(name__in=holding), *rows.exclude(name__in=holding).order_by("name")[:BUDGETS_READ]]
    for budget in found:
        budget.held_jobs = holding.get(budget.name, Counted(0))
    found.sort(key=lambda budget: (-budget.held_jobs.number, -_used(budget), budget.name))
    return found[:BUDGETS_AT_MOST]


def _used(budget: Any) -> Decimal:
    """Returns the part of its cap that is spent or reserved."""
    return (budget.spent_now + budget.reserved) / budget.usd if budget.usd > 0 else Decimal(0)


# Index: pgonly_job_held, one range for each of the holders.
HELD_JOBS = qualified(f"""
SELECT holder, (SELECT count(*)::int FROM (
    SELECT FROM pgonly_job WHERE held_by = holder LIMIT {HELD_AT_MOST + 1}) AS counted)
FROM unnest(%(holders)s::text[]) AS given(holder)
""")


def held_jobs(names: Iterable[str]) -> dict[str, Counted]:
    """Returns, by name, the number of jobs that each of these budgets holds, counted up to HELD_AT_MOST."""
    holders = [HELD_BY + name for name in names]
    with connections[router.db_for_read(Job)].cursor() as cursor:
        cursor.execute(HELD_JOBS, {"holders": holders})
        return {
            holder.removeprefix(HELD_BY): capped(count, HELD_AT_MOST) for holder, count in cursor.fetchall()
        }


def schedules(alias: str) -> list[Any]:
    """Returns SCHEDULES_AT_MOST rows, the next tick first, then the paused ones; each with `now`, the database's clock.
    Index: pgonly_schedule_due, in its order. Of the paused ones pgonly_schedule is read, which is small.
    """
    rows = Schedule.objects.using(alias).annotate(now=ClockTimestamp())
    ticking = list(rows.filter(paused_at=None, next_at__isnull=False).order_by("next_at")[:SCHEDULES_AT_MOST])
    left = SCHEDULES_AT_MOST - len(ticking)
    resting = rows.exclude(paused_at=None, next_at__isnull=False)
    return ticking + (list(resting.order_by("name")[:left]) if left else [])


def with_problem(alias: str) -> list[Schedule]:
    """Returns SCHEDULES_AT_MOST that are not paused and could not enqueue their last tick. The table is small, and
    read."""
    rows = Schedule.objects.using(alias).filter(problem__isnull=False, paused_at=None).exclude(problem="")
    return list(rows.order_by("name")[:SCHEDULES_AT_MOST])
