"""budget(): a budget by its name. Its row is made when it is first used, and is the same for every process."""

from __future__ import annotations

from dataclasses import dataclass

from pgonly_django import amounts
from pgonly_django.amounts import Amount
from pgonly_django.limits import budget_settings
from pgonly_django.limits.budget_reservation import Reservation
from pgonly_django.limits.budget_settings import Declaration


def budget(
    name: str, usd: Amount | None = None, *, per: str | None = None, timezone: str | None = None
) -> Budget:
    """The budget `name`, with a cap of `usd` US dollars: in all, or `per` hour, day, week, month or year of `timezone`
    (else of TIME_ZONE). What is not given here is taken from PGONLY["BUDGETS"]; a person's edit in the admin wins over
    both. Asks no database. Raises BudgetError and AmountError."""
    budget_settings.check_name(name)
    return Budget(name, budget_settings.declaration_of(name, usd, per, timezone))


@dataclass(frozen=True, slots=True)
class Budget:
    """Made by budget(). Two of the same name are the same budget."""

    name: str
    declaration: Declaration | None

    def reserve(self, usd: Amount, *, step: str = "", one_call: bool = False) -> Reservation:
        """`with budget(...).reserve(0.02) as reservation:` (or `async with`) around a call that costs at most so much.

        Of all processes together no more is spent and reserved than the cap allows. Where it does not fit, a job is
        held: JobHeld is raised in it, and it goes on once the cap was raised or the next period has begun. Outside of
        jobs raises BudgetExceededError. Never part of the caller's transaction. `step` names the call in the costs.

        An exception that ends the block counts what was reserved, unless you have settled or released it. `one_call`
        says that the block makes one request and nothing else that could raise an error of HTTP or of a connection.
        Then an error that says that the request was not paid, such as one with status 429, gives the amount back."""
        amount = amounts.usd(usd, "What is reserved")
        return Reservation(self.name, self.declaration, amount, step, one_call=one_call)
