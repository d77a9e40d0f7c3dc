"""The duties of limits: budgets are settled and declared, and old costs deleted."""

from __future__ import annotations

import logging
import time

from pgonly_django.database.housekeeping import database_of, no_timeout, patient_transaction
from pgonly_django.duties import BATCH, NEVER, Duty, Pruning
from pgonly_django.events import emit
from pgonly_django.limits import expiry
from pgonly_django.limits.budget_settings import exact_names
from pgonly_django.limits.renewal import LEASE_SECONDS
from pgonly_django.models import Budget, CostEntry


class PruneCosts(Pruning):
    name = "Pruning costs"

    def prune(self) -> int:
        if (alias := database_of(CostEntry)) is None:
            return 0
        with no_timeout(alias):
            return expiry.prune_costs(alias, BATCH)


class SettleBudgets(Duty):
    """Counts reservations of dead processes as spent, and resumes the jobs of budgets that have room again."""

    name, asks_before_sleep = "Settling budgets", True
    settle_seconds = LEASE_SECONDS

    def run(self) -> float:
        """Comes again soon while jobs are held or calls are under way. A budget that begins a new period wakes up a
        worker that sleeps."""
        self.needed_at = NEVER
        if (alias := database_of(Budget)) is None:
            return self.again_in(0)
        jobs_alias = self.workplace.database
        with no_timeout(alias):
            expired = expiry.expire(self.settle_seconds)
            for each in expired:
                _tell_expired(each)
            is_open, holding = expiry.is_any_open(), expiry.holding_budgets(jobs_alias)
            if holding:
                _resume(jobs_alias, holding)
            if expired or is_open:
                self.needed_at = time.monotonic()
            elif holding:
                seconds = expiry.next_period_in_seconds(holding)
                self.needed_at = NEVER if seconds is None else time.monotonic() + seconds
        return self.again_in(len(expired) or bool(is_open or holding))


def _resume(alias: str, names: list[str]) -> None:
    if count := expiry.resume_held(alias, names):
        message = f"{count} job(s) that a budget held continue: it has room again."
        emit("limits.jobs_resumed", message, jobs=count)


def _tell_expired(expired: expiry.ExpiredReservation) -> None:
    whose = f" for {expired.task} {expired.job_id}" if expired.job_id else ""
    was, why = (
        ("paid", "the step was saved") if expired.is_known else ("reserved", "the call may have been paid")
    )
    message = (
        f"{expired.usd} USD of budget {expired.budget!r} were {was}{whose} by a process that has ended. They count as "
        f"spent: {why}."
    )
    facts = {"budget": expired.budget, "usd": expired.usd, "job_id": expired.job_id and str(expired.job_id)}
    emit("limits.reservation_expired", message, level=logging.WARNING, **facts)


class DeclareBudgets(Duty):
    """Repeats what the settings declare of budgets, so that they are in the admin before they are used."""

    name = "Declaring budgets"

    def run(self) -> float:
        if (alias := database_of(Budget)) is not None:
            with patient_transaction(alias):
                rows = {name: declaration.columns for name, declaration in exact_names().items()}
                Budget.objects.using(alias).declare(rows)
        return self.again_in(0)
