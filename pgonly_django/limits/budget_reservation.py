"""What a call may cost that is under way: reserved before it, settled behind it. Each is one statement on a connection
of ours. A reservation whose process dies counts as spent once its lease is over: see expiry.py."""

from __future__ import annotations

import logging
import random
import time
from decimal import Decimal
from functools import partial
from typing import Any, Self
from uuid import uuid4

from pgonly_django.amounts import Amount, Cost, shown
from pgonly_django.current_job import CurrentJob, current_job
from pgonly_django.database import testrun
from pgonly_django.database.operation import Operation, Signal, run
from pgonly_django.database.statement import integer
from pgonly_django.events import emit
from pgonly_django.exceptions import (
    BudgetError,
    BudgetExceededError,
    LimitsError,
    LimitsUnansweredError,
    LimitsUnavailableError,
    UnknownBudgetError,
)
from pgonly_django.limits import budget_rows, budget_settings
from pgonly_django.limits.background import background
from pgonly_django.limits.budget_settings import Declaration
from pgonly_django.limits.budget_statements import RENEW, RESERVE, SETTLE, Look, look_in
from pgonly_django.limits.pool_user import call, pool, refuse_event_loop
from pgonly_django.limits.renewal import LEASE_SECONDS, renewal
from pgonly_django.limits.unpaid import is_unpaid
from pgonly_django.models.budget import HELD_BY

# A job waits so long, with its slot, for other calls to settle where only they are in the way; then it gives the slot
# back and comes again by itself.
WAIT_SECONDS = 10.0
AGAIN_SECONDS = (5.0, 15.0)
PAUSE_SECONDS = (0.05, 1.0)
AWAY_SECONDS = 0.5  # between two tries while the database is away
PATIENCE_SECONDS = 5.0  # that a caller outside of jobs waits for it
DAY_SECONDS = 86_400.0
UNPAID = {"usd": Decimal(0), "tokens_in": None, "tokens_out": None, "is_recorded": 0, "is_estimate": 0}


class Reservation:
    """Made by Budget.reserve(). Inside its `with` the amount is reserved; settle() says what the call has cost.

    Left without settle() or release() it counts as spent as it was reserved, also by an exception: that may come of
    the answer, or of what the block does with it, which was paid. Only with `one_call` does an exception that says that
    its request was not paid (an answer with status 429, 400 or 503, a connection that was never made) give it back.
    """

    def __init__(
        self,
        budget: str,
        declaration: Declaration | None,
        usd: Decimal,
        step: str = "",
        *,
        one_call: bool = False,
    ) -> None:
        self.budget, self.usd, self.step, self.one_call = budget, usd, step, one_call
        self.id, self.pool = uuid4(), pool()
        self.known_cost: Cost | None = None  # what the call has cost, while that is not yet settled
        self._declaration = declaration
        self._is_open = self._is_over = False
        self._may_exist = False  # PostgreSQL was asked to reserve, and did not say no

    def __enter__(self) -> Self:
        refuse_event_loop(f"budget({self.budget!r}).reserve(...)")
        self._open()
        try:
            run(self._make())
        except BaseException:
            self._give_back_later()
            raise
        return self

    async def __aenter__(self) -> Self:
        self._open()
        try:
            await self.pool.arun(self._make())
        except BaseException:
            self._give_back_later()
            raise
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not self._is_over:
            run(self._end_with(error))

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not self._is_over:
            await self.pool.arun(self._end_with(error))

    def settle(
        self, usd: Amount | Cost, *, tokens_in: int | None = None, tokens_out: int | None = None
    ) -> None:
        """Say what the call has cost; it may be more than was reserved. While the database is away, this is done in
        the background as soon as it is back. Raises AmountError, and BudgetError where it was settled already."""
        run(self._settle(_cost(usd, tokens_in, tokens_out)))

    async def asettle(
        self, usd: Amount | Cost, *, tokens_in: int | None = None, tokens_out: int | None = None
    ) -> None:
        """See settle()."""
        await self.pool.arun(self._settle(_cost(usd, tokens_in, tokens_out)))

    def release(self) -> None:
        """Give the amount back: the call was not made, or not paid. Raises BudgetError where it was settled already."""
        run(self._settle(Cost(), is_recorded=False))

    async def arelease(self) -> None:
        """See release()."""
        await self.pool.arun(self._settle(Cost(), is_recorded=False))

    def settle_step(self, cost: Cost, *, is_recorded: bool) -> None:
        """settle() for a step, whose own statement may have recorded the cost."""
        if not self._is_over:
            run(self._settle(cost, is_recorded=is_recorded))

    RENEW = RENEW

    def lost(self) -> None:
        """It has expired, while this process stood still. settle() corrects what was counted."""

    def _open(self) -> None:
        if self._is_open or self._is_over:
            raise BudgetError("A reservation serves one `with` block: call reserve() again for the next one.")
        self._is_open = True

    def _make(self) -> Operation[None]:
        job, give_up_at, pause = current_job.get(), time.monotonic() + WAIT_SECONDS, PAUSE_SECONDS[0]
        if job is not None:
            job.raise_if_interrupted()
        while not (look := (yield from self._look(job))).is_made:
            self._raise_unless_it_may_wait(job, look, give_up_at)
            yield Signal(pause)
            pause = min(pause * 2, PAUSE_SECONDS[1])
        renewal.keep(self)

    def _look(self, job: CurrentJob | None) -> Operation[Look]:
        """Try to reserve. While the database is away a job waits, unless its run has to end; others for a moment."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            if job is not None:
                job.raise_if_interrupted()
            try:
                return (yield from self._try(job))
            except LimitsUnavailableError:
                if job is None and time.monotonic() >= give_up_at:
                    raise
            yield Signal(AWAY_SECONDS)

    def _try(self, job: CurrentJob | None) -> Operation[Look]:
        if self._declaration is not None:
            yield from budget_rows.ROWS.declare(self.pool, self.budget, self._declaration.columns)
        row = {"id": self.id, "name": self.budget, "usd": self.usd, "step": self.step, **_of_job(job)}
        may_exist, self._may_exist = self._may_exist, True
        try:
            look = look_in((yield from call(self.pool, RESERVE, **row, lease=LEASE_SECONDS)))
        except LimitsUnansweredError:
            raise
        except (LimitsError, testrun.Refusal):  # not sent, or refused
            self._may_exist = may_exist
            raise
        self._may_exist = may_exist or (look is not None and look.is_made)  # an earlier try may still be made
        if look is not None:
            return look
        if self._declaration is None:
            raise UnknownBudgetError(self.budget, budget_settings.nearest(self.budget))
        budget_rows.ROWS.forget(self.pool, self.budget)  # the row was deleted since
        return (yield from self._try(job))

    def _raise_unless_it_may_wait(self, job: CurrentJob | None, look: Look, give_up_at: float) -> None:
        """Only a job waits, and only where the calls under way may leave enough of what they have reserved."""
        if job is None:
            raise BudgetExceededError(self.budget, self.usd, look.usd, look.spent, look.reserved)
        is_used_up = look.spent + self.usd > look.usd or look.spent == look.usd
        if not is_used_up and time.monotonic() < give_up_at:
            return
        reason = (
            f"Budget {self.budget!r}: {shown(self.usd)} do not fit. {shown(look.spent)} of {shown(look.usd)} are spent"
            f" and {shown(look.reserved)} are reserved."
        )
        again = None if is_used_up else random.uniform(*AGAIN_SECONDS)  # noqa: S311 - no secret
        raise job.hold(f"{HELD_BY}{self.budget}", reason, again)

    def _end_with(self, error: BaseException | None) -> Operation[None]:
        """Leave the block without a word on the cost. Where nothing was reserved there is nothing to count."""
        if self.known_cost is not None:
            return self._settle(self.known_cost)
        if self.usd == 0 or (self.one_call and is_unpaid(error)):
            return self._settle(Cost(), is_recorded=False)
        return self._settle(Cost(self.usd), is_estimate=True)

    def _settle(self, cost: Cost, *, is_recorded: bool = True, is_estimate: bool = False) -> Operation[None]:
        if not self._is_open or self._is_over:
            which = "was settled or released already: say the sum once" if self._is_over else "is not open"
            raise BudgetError(f"The reservation of {shown(self.usd)} of budget {self.budget!r} {which}.")
        self._is_over = True
        values = {"usd": cost.usd, "tokens_in": cost.tokens_in, "tokens_out": cost.tokens_out}
        settled = partial(self._write, **values, is_recorded=int(is_recorded), is_estimate=int(is_estimate))
        try:
            yield from settled()
        except LimitsUnavailableError as error:
            background.add(lambda: run(settled()), DAY_SECONDS)
            message = (
                f"{shown(cost.usd)} of budget {self.budget!r} are settled once PostgreSQL can do it: {error}"
            )
            emit("limits.settled_later", message, level=logging.WARNING, budget=self.budget, usd=cost.usd)
        except Exception:
            raise
        except BaseException:  # an interruption, while the answer was on its way
            background.add(lambda: run(settled()), DAY_SECONDS)
            raise

    def _write(self, **values: Any) -> Operation[bool]:
        """Whether the reservation was there, and not settled already."""
        result = yield from call(self.pool, SETTLE, id=self.id, name=self.budget, **values)
        renewal.drop(self)
        return integer(result.get_value(0, 0)) > 0

    def _give_back_later(self) -> None:
        """Its caller does not get it, but PostgreSQL may have it by now."""
        if self._may_exist and not self._is_over:
            self._is_over = True
            background.undo(lambda: run(self._write(**UNPAID)))


def _cost(usd: Amount | Cost, tokens_in: int | None, tokens_out: int | None) -> Cost:
    return usd if isinstance(usd, Cost) else Cost(usd, tokens_in, tokens_out)


def _of_job(job: CurrentJob | None) -> dict[str, Any]:
    """The columns that say for which job a call is made."""
    if job is None:
        return {"job_id": None, "task": "", "queue": ""}
    return {"job_id": job.job.id, "task": job.job.task, "queue": job.job.queue}
