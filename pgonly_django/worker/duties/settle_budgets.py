import logging
from threading import Event

from django.db import connections, router

from pgonly_django.events import emit
from pgonly_django.limits import expiry
from pgonly_django.limits.renewal import LEASE_SECONDS
from pgonly_django.models import Budget
from pgonly_django.worker.duties.duty import INTERVAL_SECONDS, Connect, no_timeout
from pgonly_django.worker.poll_timer import NEVER


class SettleBudgets:
    """Counts reservations of dead processes as spent, and resumes the jobs of budgets that have room again."""

    name, interval = "Settling budgets", INTERVAL_SECONDS

    def __init__(self, alias: str, settle_seconds: float = LEASE_SECONDS) -> None:
        self.alias, self._settle_seconds = alias, settle_seconds
        # Where the last run found nothing but held jobs: seconds until one of their budgets begins a new period.
        self.resets_in: float | None = None

    def run_once(self, jobs: Connect, over: Event) -> int:  # noqa: ARG002 - a duty's signature
        """More than 0 where jobs are held or calls are under way: then it comes again soon."""
        alias, self.resets_in = router.db_for_write(Budget), None
        if connections[alias].vendor != "postgresql" or not router.allow_migrate_model(alias, Budget):
            return 0
        with no_timeout(alias):
            found = self._expire(over) + expiry.is_any_open()
            holding = expiry.holding_budgets(self.alias)
            if holding:
                _resume(self.alias, holding)
                if not found:
                    self.resets_in = _seconds_until_a_period(holding)
            return found + len(holding)

    def _expire(self, over: Event) -> int:
        count = expiry.BATCH
        total = 0
        while count >= expiry.BATCH and not over.is_set():
            expired = expiry.expire(self._settle_seconds)
            for each in expired:
                _emit(each)
            count = len(expired)
            total += count
        return total


def _seconds_until_a_period(holding: list[str]) -> float:
    seconds = expiry.next_period_in_seconds(holding)
    return NEVER if seconds is None else seconds


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
