"""Metrics of limiters and budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from pgonly_django.monitoring.metrics.metric import Metric, Sample
from pgonly_django.monitoring.stats import Stats


def _of_each(part: str, value_of: Callable[[Any], Any]) -> Callable[[Stats], Iterator[Sample]]:
    def samples(stats: Stats) -> Iterator[Sample]:
        for row in getattr(stats, part):
            if (value := value_of(row)) is not None:
                yield (stats.database_of[part], row.name), float(value)

    return samples


def _limiter(name: str, text: str, value_of: Callable[[Any], Any]) -> Metric:
    return Metric(name, text, ("limiters",), ("database", "limiter"), _of_each("limiters", value_of))


def _budget(name: str, text: str, value_of: Callable[[Any], Any]) -> Metric:
    return Metric(name, text, ("budgets",), ("database", "budget"), _of_each("budgets", value_of))


def _cools_down_for(row: Any) -> float:
    if row.blocked_until is None:
        return 0.0
    left: timedelta = row.blocked_until - row.now
    return max(left.total_seconds(), 0.0)


# Of 50 limiters, those that cool down first; and of 20 budgets, those that hold jobs first, then the fullest.
METRICS = (
    _limiter("pgonly_limiter_slots_used", "Slots of the limiter that are taken.", lambda row: row.held),
    _limiter(
        "pgonly_limiter_slots", "Slots of the limiter, where it has a number.", lambda row: row.concurrent
    ),
    _limiter("pgonly_limiter_waiters", "Callers that wait for the limiter.", lambda row: row.waiters),
    _limiter(
        "pgonly_limiter_cool_down_seconds",
        "Until the limiter lets callers in again; 0 while it does.",
        _cools_down_for,
    ),
    _budget("pgonly_budget_cap_usd", "What may be spent in a period of the budget.", lambda row: row.usd),
    _budget("pgonly_budget_spent_usd", "What is spent in its present period.", lambda row: row.spent_now),
    _budget("pgonly_budget_reserved_usd", "What is reserved and not settled yet.", lambda row: row.reserved),
    _budget(
        "pgonly_budget_held_jobs",
        "Jobs that the budget holds until it has room, counted up to 10,000.",
        lambda row: row.held_jobs.number,
    ),
)
