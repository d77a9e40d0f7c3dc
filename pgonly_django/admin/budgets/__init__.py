"""Budgets and costs in the admin: what is spent of each cap and what it holds; what calls have cost, and their sums."""

from pgonly_django.admin.budgets.budget_admin import BudgetAdmin
from pgonly_django.admin.budgets.cost_admin import CostAdmin

__all__ = ["BudgetAdmin", "CostAdmin"]
