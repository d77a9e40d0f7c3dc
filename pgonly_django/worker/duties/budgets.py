"""Counts reservations of dead processes as spent, and resumes the jobs of budgets that have room again."""

import logging
from threading import Event

from pgonly_django.events import emit
from pgonly_django.limits import expiry
from pgonly_django.limits.renewal import LEASE_SECONDS
from pgonly_django.models import Budget
from pgonly_django.worker.maintenance import Connect, Duty, database_of, no_timeout
from pgonly_django.worker.timers import NEVER


class SettleBudgets(Duty):
    name, may_not_wait = "Settling budgets", True

    def __init__(self, alias: str, settle_seconds: float = LEASE_SECONDS) -> None:
        self.alias, self._settle_seconds = alias, settle_seconds

    def run_once(self, jobs: Connect, over: Event) -> int:  # noqa: ARG002 - a duty's signature
        """More than 0 where jobs are held or calls are under way: then it comes again soon."""
        self.resets_in = None
        if (alias := database_of(Budget)) is None:
            return 0
        with no_timeout(alias):
            found = self._expire(over) + expiry.is_any_open()
            holding = expiry.holding_budgets(self.alias)
            if holding:
                _resume(self.alias, holding)
                if not found:
                    seconds = expiry.next_period_in_seconds(holding)
                    self.resets_in = NEVER if seconds is None else seconds
            return found + len(holding)

    def _expire(self, over: Event) -> int:
        total, count = 0, expiry.BATCH
        while count >= expiry.BATCH and not over.is_set():
            expired = expiry.expire(self._settle_seconds)
            for each in expired:
                _emit(each)
            count = len(expired)
            total += count
        return total


def _emit(expired: expiry.ExpiredReservation) -> None:
    whose = f" for {expired.task} {expired.job_id}" if expired.job_id else ""
    was, why = (
        ("paid", "the step was saved") if expired.is_known else ("reserved", "the call may have been paid")
    )
    message = (
        f"{expired.usd} USD of budget {expired.budget!r} were {was}{whose} by a process that is gone. They count as "
        f"spent: {why}."
    )
    facts = {"budget": expired.budget, "usd": expired.usd, "job_id": expired.job_id and str(expired.job_id)}
    emit("limits.reservation_expired", message, level=logging.WARNING, **facts)


def _resume(alias: str, names: list[str]) -> None:
    count = expiry.resume_held(alias, names)
    if count:
        message = f"{count} job(s) go on that a budget has held: it has room again."
        emit("limits.jobs_resumed", message, jobs=count)
