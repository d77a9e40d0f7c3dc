"""Queues with limits, one of them paused; a limiter that cools down; the budget that holds jobs, and others."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Sum
from django.utils import timezone

from example_project.screening.demo import sample_tasks as tasks
from example_project.screening.demo.seeding.rows import ago
from example_project.screening.demo.seeding.workers import WORKERS
from pgonly_django.models import Budget, CostEntry, Limiter, LimiterSlot, Queue, Reservation

COOLS_DOWN_FOR = timedelta(minutes=10)
USED_FOR = timedelta(minutes=10)  # how long the slots in use are to be seen


def write() -> None:
    _write(Queue, "mail", max_running=4, rate_count=120, rate_seconds=60)
    _write(Queue, "reports", max_running=2)
    _write(Queue, "translations", limiter=tasks.MODEL)
    _write(Queue, "exports", paused_at=ago(minutes=22))
    _write(Limiter, tasks.MODEL, concurrent=3, requests_per_minute=120, blocked_until=None)
    _write(
        Limiter, "archive", concurrent=8, tokens_per_minute=40_000, tokens=9_300, refilled_at=timezone.now()
    )
    _write(Limiter, "overloaded", concurrent=4, blocked_until=timezone.now() + COOLS_DOWN_FOR)
    for number in range(1, 6):
        _take_slot("archive", number)
    write_budgets()


def _write(model: Any, name: str, **values: Any) -> None:
    model.objects.update_or_create(name=name, defaults=values)


def _take_slot(limiter: str, number: int) -> None:
    taken = {"who": f"pid {5200 + number} on demo-host", "taken_at": ago(seconds=3 * number)}
    held = {"holder": uuid.uuid5(WORKERS, f"{limiter} {number}"), "expires_at": timezone.now() + USED_FOR}
    LimiterSlot.objects.update_or_create(limiter=limiter, number=number, defaults={**taken, **held})


def write_budgets() -> None:
    """What is spent of them are the costs that were written before."""
    cap, today = Decimal("0.40"), timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    used_up = {"usd": cap, "spent": cap, "declared": {"usd": "0.4", "per": None, "timezone": "UTC"}}
    _write(Budget, tasks.TRANSLATIONS, **used_up, resumed_at=None, reserved=0)
    of_today = CostEntry.objects.filter(budget=tasks.ASSISTANT, at__gte=today)
    spent = of_today.aggregate(sum=Sum("usd", default=Decimal(0)))["sum"]
    daily = {"usd": Decimal(5), "per": "day", "timezone": "UTC"}
    _write(Budget, tasks.ASSISTANT, **daily, declared={**daily, "usd": "5"}, spent=spent, period_start=today,
           reserved=tasks.AN_ANSWER.usd)  # fmt: skip
    reserved = {"usd": tasks.AN_ANSWER.usd, "expires_at": timezone.now() + USED_FOR, "is_expired": False}
    Reservation.objects.update_or_create(
        id=uuid.uuid5(WORKERS, "reservation"),
        defaults={"budget": tasks.ASSISTANT, "step": "answer", **reserved},
    )
