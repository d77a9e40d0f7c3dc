"""What a step's call costs: known before it, behind it, or returned with its result; and its budget."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Self

from pgonly_django.amounts import Amount, Cost, Costed
from pgonly_django.events import emit
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.limits.budget import NamedBudget, budget
from pgonly_django.queue.checkpoints import StepCost

# An amount, a Cost, or a function of the step's result that returns one of the two.
CostOf = Amount | Cost | Callable[[Any], Any]


class Spending:
    """The block around the call of one step. With a budget the call's amount is reserved inside of it."""

    def __init__(
        self,
        step: str,
        cost: CostOf | None,
        of: NamedBudget | str | None,
        reserve: Amount | None,
        one_call: bool,
    ) -> None:
        """Raises AmountError, BudgetError and WrongArgumentsError, before anything is paid."""
        self.step = step
        self._cost_of = cost if cost is None or callable(cost) else Cost.of(cost)
        self._reservation = None
        if of is not None:
            known = self._cost_of.usd if isinstance(self._cost_of, Cost) else 0
            whole = budget(of) if isinstance(of, str) else of
            amount = known if reserve is None else reserve
            self._reservation = whole.reserve(amount, step=step, one_call=one_call)
        elif reserve is not None:
            raise WrongArgumentsError(
                "step()", f"reserve={reserve!r} needs the budget: step(..., budget=...)"
            )

    def __enter__(self) -> Self:
        if self._reservation is not None:
            self._reservation.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._reservation is not None:
            self._reservation.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Self:
        if self._reservation is not None:
            await self._reservation.__aenter__()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._reservation is not None:
            await self._reservation.__aexit__(kind, error, traceback)

    def take(self, value: Any) -> tuple[Any, Cost | None]:
        """The result in what the function returned, and what it has cost. From now on that counts, whatever happens
        to the result."""
        said = self._cost_of
        if isinstance(value, Costed):
            value, said = value.result, value.cost
        cost = self._cost(said, value)
        if self._reservation is not None:
            self._reservation.known_cost = cost
            self._reservation.one_call = False  # an error from here on is not the call's
        return value, cost

    def stored(self, cost: Cost | None, *, is_in_transaction: bool) -> StepCost | None:
        """What is stored with the step. Inside a transaction, which may be rolled back, the reservation notes what was
        paid; elsewhere it is noted together with the step."""
        if cost is None:
            return None
        reservation = self._reservation
        if reservation is None:
            return StepCost(cost)
        return StepCost(cost, reservation.budget, reservation.id, is_noted=not is_in_transaction)

    def settle(self, cost: Cost | None, *, is_noted: bool) -> None:
        """The step is kept. `is_noted`: its cost stands among the costs already."""
        if self._reservation is not None and cost is not None:
            self._reservation.settle_step(cost, is_recorded=not is_noted)

    def _cost(self, said: Any, result: Any) -> Cost | None:
        """None where nothing was said, or nothing that can be stored: a paid result is not thrown away for that."""
        try:
            said = said(result) if callable(said) else said
            return None if said is None else Cost.of(said)
        except Exception as error:  # noqa: BLE001 - a function of the project may raise anything
            message = f"The cost of step {self.step!r} is not known: {error!r:.500}"
            emit("limits.cost_unknown", message, level=logging.ERROR, exc_info=True, step=self.step)
            return None
