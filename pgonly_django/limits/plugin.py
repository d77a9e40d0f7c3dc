"""What the limits plug into the worker and the job context."""

from __future__ import annotations

from pgonly_django.amounts import Cost
from pgonly_django.limits.admission import leave_queues
from pgonly_django.limits.budget import BudgetReservation, budget, costs_database, note_cost
from pgonly_django.limits.duties import DeclareBudgets, PruneCosts, SettleBudgets
from pgonly_django.limits.renewal import renewal
from pgonly_django.plugins import PayingBudget, Plugin


class LimitsPlugin(Plugin):
    """Budgets that pay for the steps of jobs, and what a process gives back when it ends."""

    pays = True
    duties = (PruneCosts, SettleBudgets, DeclareBudgets)

    def budget(self, of: PayingBudget | str) -> PayingBudget:
        return budget(of) if isinstance(of, str) else of

    def note_cost(self, alias: str, step: str, cost: Cost, reservation: BudgetReservation | None) -> bool:
        """See Plugin."""
        if costs_database() == alias:
            return True
        note_cost(step, cost, reservation)
        return False

    def end_process(self) -> None:
        leave_queues()
        renewal.end()
