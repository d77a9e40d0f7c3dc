"""budget(): a budget by its name, and the cost of calls under way: reserved before the call, settled after it.

Each is one statement on a connection of this package. A reservation whose process dies counts as spent after its lease
has ended: see expiry.py.
"""

from __future__ import annotations

import logging
import os
import random
import time
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Self
from uuid import uuid4

from django.db import router

from pgonly_django import amounts
from pgonly_django.amounts import Amount, Cost, shown
from pgonly_django.current_job import CurrentJob, current_job
from pgonly_django.database.operation import Operation, Signal, run
from pgonly_django.database.statement import integer
from pgonly_django.events import emit
from pgonly_django.exceptions import (
    BudgetError,
    BudgetExceededError,
    LimitsError,
    LimitsUnavailableError,
    UnknownBudgetError,
)
from pgonly_django.limits import budget_settings
from pgonly_django.limits.budget_settings import BudgetDeclaration, BudgetPeriod
from pgonly_django.limits.budget_statements import NOTE, RENEW, RESERVE, SETTLE, ReserveAnswer, answer_in
from pgonly_django.limits.declared_rows import FOLLOWS, DeclaredRows
from pgonly_django.limits.pool_user import LIMITS, background, call, pool, refuse_event_loop, while_away
from pgonly_django.limits.renewal import LEASE_SECONDS, renewal
from pgonly_django.models.budget import HELD_BY, Budget
from pgonly_django.provider_answers import is_unpaid

# Where only other calls are in the way, a job waits for them to settle in its slot for the first time. If another job
# may need the slot, it does not wait, or for the second one after a call that it has paid; and it waits always while a
# call of its own has a reservation, since its paid calls would be cut off. Then it gives the slot back, and comes again
# by itself within AGAIN_AT_MOST. The jobs of one budget and one process come SPACE_SECONDS apart, so that a thousand
# cost as much as a hundred, and those of all budgets so far apart that they take a tenth of the slots' time.
WAIT_SECONDS, WAIT_IN_THE_WAY = 10.0, 0.2
AGAIN_SECONDS, AGAIN_AT_MOST, SPACE_SECONDS, TIMES_APART = 5.0, 60.0, 0.1, 10.0
AGAIN_SOON, SPACE_SOON = 0.5, 0.03  # where a job has got its reservation in the last AGAIN_SECONDS
LOOK_SECONDS = 0.1  # after which a job that waits notices that another one may need its slot
_ALL = ""  # the name of no budget
_again_at: dict[str, float] = {}  # by the name of the budget: when its last job comes
_fitted_at: dict[str, float] = {}  # when a job has got its reservation
# The number of blocks that the caller is in: what it has reserved itself does not end while it waits.
_inside: ContextVar[int] = ContextVar("pgonly_inside_reservations", default=0)
PAUSE_SECONDS = (0.05, 1.0)
PATIENCE_SECONDS = 5.0  # that a caller outside of jobs waits while the database is unavailable
DAY_SECONDS = 86_400.0
NO_JOB = {"job_id": None, "task": "", "queue": ""}

ROWS = DeclaredRows(
    "pgonly_budget",
    {"usd": "numeric", "per": "text", "timezone": "text"},
    f""",
    resumed_at = CASE WHEN {FOLLOWS} AND excluded.usd > d.usd THEN clock_timestamp() ELSE d.resumed_at END""",
)


def budget(
    name: str, usd: Amount | None = None, *, per: BudgetPeriod | None = None, timezone: str | None = None
) -> NamedBudget:
    """Returns the budget `name` with a cap of `usd` US dollars, in total or `per` hour, day, week, month or year of
    `timezone`, which is TIME_ZONE by default. A call reserves what it may cost at most, and settles what it has cost:

        with budget("project:7", usd=5, per="month").reserve(0.02) as reservation:
            answer = ask(prompt)
            reservation.settle(answer.usd)

    Whatever is not given here comes from PGONLY["BUDGETS"]; an edit in the admin takes precedence over both. Sends no
    statement. Raises BudgetError and AmountError."""
    budget_settings.check_name(name)
    return NamedBudget(name, budget_settings.declaration_of(name, usd, per, timezone))


@dataclass(frozen=True, slots=True)
class NamedBudget:
    """The budget that budget() returns. Its row is created at its first use. Objects of one name are one budget."""

    name: str
    declaration: BudgetDeclaration | None

    def reserve(self, usd: Amount, *, step: str = "", one_call: bool = False) -> BudgetReservation:
        """Returns a reservation for a `with` or `async with` block around a call that costs at most `usd` US dollars.

        All processes together spend and reserve no more than the cap. If the amount does not fit, a job is held:
        JobHeld is raised in it, and it continues after the cap was raised or the next period has begun. Outside of jobs
        BudgetExceededError is raised. The reservation is never part of the caller's transaction. `step` names the call
        in the list of costs.

        An exception that ends the block counts as the reserved amount, unless you have settled or released it: the
        answer may have arrived, and was paid. `one_call` says that the block makes one request and nothing else that
        could raise an error of HTTP or of a connection. Then an error that shows that the request was not paid (status
        429, 400 or 503, or a connection that was never made) gives the amount back."""
        amount = amounts.usd(usd, "What is reserved")
        return BudgetReservation(self.name, self.declaration, amount, step, one_call=one_call)


class BudgetReservation:
    """The reservation that NamedBudget.reserve() returns. Inside its `with` block the amount is reserved; settle() sets
    what the call has cost."""

    RENEW = RENEW

    def __init__(
        self, name: str, declaration: BudgetDeclaration | None, usd: Decimal, step: str = "", *,
        one_call: bool = False,
    ) -> None:  # fmt: skip
        self.budget, self.usd, self.step, self.one_call = name, usd, step, one_call
        self.id, self.pool = uuid4(), pool(Budget)
        self.known_cost: Cost | None = None  # what the call has cost, while that is not yet settled
        self._declaration = declaration
        self._opened_by: int | None = None  # the process that has entered the block
        self._of_run: list[None] | None = None  # where the run counts it, until it is over
        self._is_over = False
        self._may_exist = False  # PostgreSQL was asked to reserve, and did not say no

    def __enter__(self) -> Self:
        refuse_event_loop(f"budget({self.budget!r}).reserve(...)")
        run(self._make())
        _inside.set(_inside.get() + 1)
        return self

    async def __aenter__(self) -> Self:
        await self.pool.arun(self._make())
        _inside.set(_inside.get() + 1)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        _inside.set(_inside.get() - 1)
        if self._is_ours:
            run(self._end_with(error))

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        _inside.set(_inside.get() - 1)
        if self._is_ours:
            await self.pool.arun(self._end_with(error))

    def settle(
        self,
        usd: Amount | Cost,
        *,
        tokens_in: int | None = None,
        tokens_out: int | None = None,
        model: str | None = None,
    ) -> None:
        """Sets what the call has cost, which may be more than was reserved. `model` names the language model; the admin
        adds up costs by it. While the database is unavailable, the cost is kept and written in the background as soon
        as it is back. Raises AmountError, and BudgetError if the reservation is settled or released already, and in a
        process that was forked inside the block."""
        run(self._settle(_cost(usd, tokens_in, tokens_out, model)))

    async def asettle(
        self,
        usd: Amount | Cost,
        *,
        tokens_in: int | None = None,
        tokens_out: int | None = None,
        model: str | None = None,
    ) -> None:
        """See settle()."""
        await self.pool.arun(self._settle(_cost(usd, tokens_in, tokens_out, model)))

    def release(self) -> None:
        """Gives the amount back, because the call was not made or not paid. Raises BudgetError if the reservation is
        settled or released already."""
        run(self._settle(Cost(), is_recorded=False))

    async def arelease(self) -> None:
        """See release()."""
        await self.pool.arun(self._settle(Cost(), is_recorded=False))

    def settle_step(self, cost: Cost, *, is_recorded: bool) -> None:
        """Settles the reservation of a step, whose own statement may have recorded the cost."""
        if self._is_ours:
            run(self._settle(cost, is_recorded=is_recorded))

    def lost(self) -> None:
        """Called when the reservation has expired while this process stood still. settle() corrects the cost."""

    def end(self) -> None:
        """Does nothing: the call may have been paid. It counts when the lease has ended."""

    @property
    def _is_ours(self) -> bool:
        """Whether this process settles it: not one that was forked inside the block, whose parent does so."""
        return self._opened_by == os.getpid() and not self._is_over

    def _make(self) -> Operation[None]:
        if self._opened_by or self._is_over:
            raise BudgetError("A reservation serves one `with` block: call reserve() again for the next one.")
        self._opened_by = os.getpid()
        job, waited, pause = current_job.get(), 0.0, PAUSE_SECONDS[0]
        try:
            while not (answer := (yield from while_away(lambda: self._try(job), PATIENCE_SECONDS))).is_made:
                yield from self._pause(self._waiting_job(job, answer, waited), pause)
                waited, pause = waited + pause, min(pause * 2, PAUSE_SECONDS[1])
            renewal.keep(self)
            if job is not None:
                self._of_run = job.reservations
                self._of_run.append(None)
                job.has_reserved, _fitted_at[self.budget] = True, time.monotonic()
        except BaseException:
            self._give_back_later()
            raise

    def _try(self, job: CurrentJob | None) -> Operation[ReserveAnswer]:
        if self._declaration is not None:
            yield from ROWS.declare(self.pool, self.budget, self._declaration.columns)
        row: dict[str, Any] = {"id": self.id, "name": self.budget, "usd": self.usd, "step": self.step}
        try:
            answer = answer_in((yield from call(self.pool, RESERVE, **row, **_of(job), lease=LEASE_SECONDS)))
        except BaseException as error:
            self._may_exist = self._may_exist or LIMITS.may_be_done(error)
            raise
        if answer is not None:
            self._may_exist = self._may_exist or answer.is_made  # an earlier try may still be made
            return answer
        if self._declaration is None:
            raise UnknownBudgetError(self.budget, budget_settings.nearest(self.budget))
        ROWS.forget(self.pool, self.budget)  # the row was deleted since
        return (yield from self._try(job))

    def _pause(self, job: CurrentJob, seconds: float) -> Operation[None]:
        """Waits for this time, or until another job may need the slot."""
        until, was_in_the_way = time.monotonic() + seconds, job.is_in_the_way
        while (left := until - time.monotonic()) > 0 and job.is_in_the_way == was_in_the_way:
            yield Signal(min(left, LOOK_SECONDS))

    def _waiting_job(self, job: CurrentJob | None, answer: ReserveAnswer, waited: float) -> CurrentJob:
        """Returns the caller's job. Raises if it is none, or if the calls under way cannot leave enough of what they
        reserved."""
        usd, spent, reserved = answer.usd, answer.spent, answer.reserved
        if job is None:
            raise BudgetExceededError(self.budget, self.usd, usd, spent, reserved)
        is_used_up = spent + self.usd > usd or spent == usd
        patience = WAIT_SECONDS
        if job.is_in_the_way:
            patience = WAIT_IN_THE_WAY if job.has_reserved else 0.0
        others_are_paid = len(job.reservations) > _inside.get()
        if others_are_paid or (not is_used_up and waited < patience):
            return job
        reason = (
            f"Budget {self.budget!r}: {shown(self.usd)} does not fit. {shown(spent)} of {shown(usd)} is spent"
            f" and {shown(reserved)} is reserved."
        )
        again = None if is_used_up else self._again_in_seconds(job.share_of_slots(waited))
        raise job.hold(f"{HELD_BY}{self.budget}", reason, again)

    def _again_in_seconds(self, share: float = 0.0) -> float:
        """Returns when the job comes again. `share`: the seconds of all slots that its next run will take in vain."""
        now = time.monotonic()
        is_soon = now - _fitted_at.get(self.budget, -AGAIN_SECONDS) < AGAIN_SECONDS
        again, space = (AGAIN_SOON, SPACE_SOON) if is_soon else (AGAIN_SECONDS, SPACE_SECONDS)
        of_all = max(now + again, _again_at.get(_ALL, 0.0)) + TIMES_APART * share
        at = max(of_all, _again_at.get(self.budget, 0.0) + space)
        if at - now > AGAIN_AT_MOST:
            return random.uniform(AGAIN_SECONDS, AGAIN_AT_MOST)  # noqa: S311 - no secret
        _again_at[_ALL], _again_at[self.budget] = of_all, at
        return at - now

    def _end_with(self, error: BaseException | None) -> Operation[None]:
        """Ends a block that did not settle its cost. If nothing was reserved, nothing counts."""
        if self.known_cost is not None:
            return self._settle(self.known_cost)
        if self.usd == 0 or (self.one_call and is_unpaid(error)):
            return self._settle(Cost(), is_recorded=False)
        return self._settle(Cost(self.usd), is_estimate=True)

    def _settle(self, cost: Cost, *, is_recorded: bool = True, is_estimate: bool = False) -> Operation[None]:
        if not self._is_ours:
            which = "is not open"
            if self._opened_by:
                which = "belongs to the process that has forked this one: it has to settle it"
            if self._is_over:
                which = "was settled or released already: settle it only once"
            raise BudgetError(f"The reservation of {shown(self.usd)} of budget {self.budget!r} {which}.")
        self._is_over = True
        settled = partial(self._write, cost, is_recorded=is_recorded, is_estimate=is_estimate)
        self._leave_run()
        try:
            yield from settled()
        except BaseException as error:
            is_away = isinstance(error, LimitsUnavailableError)
            if is_away or not isinstance(error, Exception):  # or interrupted before the answer came
                background.add(lambda: run(settled()), DAY_SECONDS)
            if not is_away:
                raise
            what = f"{shown(cost.usd)} of budget {self.budget!r}"
            message = f"{what} will be settled when PostgreSQL is available again: {error}"
            emit("limits.settled_later", message, level=logging.WARNING, budget=self.budget, usd=cost.usd)

    def _write(self, cost: Cost, *, is_recorded: bool, is_estimate: bool = False) -> Operation[bool]:
        """Returns whether the reservation existed and was not settled already."""
        how = {"is_recorded": int(is_recorded), "is_estimate": int(is_estimate)}
        result = yield from call(self.pool, SETTLE, id=self.id, name=self.budget, **asdict(cost), **how)
        renewal.drop(self)
        return integer(result.get_value(0, 0)) > 0

    def _leave_run(self) -> None:
        if self._of_run:
            self._of_run.pop()
            self._of_run = None

    def _give_back_later(self) -> None:
        """Releases in the background what the caller does not get, but PostgreSQL may have reserved by now."""
        self._leave_run()
        if self._may_exist and self._is_ours:
            self._is_over = True
            background.undo(lambda: run(self._write(Cost(), is_recorded=False)))


def costs_database() -> str:
    """Returns where the router writes budgets, and with them the costs of all steps."""
    return router.db_for_write(Budget)


def note_cost(step: str, cost: Cost, reservation: BudgetReservation | None) -> None:
    """Notes what the call of a step has cost, once, also where its reservation is never settled. If the database is
    unavailable or refuses, the note is tried again in the background: the paid result is still to be saved."""
    payer: dict[str, Any] = {"id": uuid4(), "budget": ""}
    if reservation is not None:
        payer = {"id": reservation.id, "budget": reservation.budget}
    note = partial(call, pool(Budget), NOTE, step=step, **payer, **_of(current_job.get()), **asdict(cost))
    try:
        run(note())
    except LimitsError:
        background.add(lambda: run(note()), DAY_SECONDS)


def _of(job: CurrentJob | None) -> dict[str, Any]:
    return {"job_id": job.job.id, "task": job.job.task, "queue": job.job.queue} if job else NO_JOB


def _cost(usd: Amount | Cost, tokens_in: int | None, tokens_out: int | None, model: str | None) -> Cost:
    return usd if isinstance(usd, Cost) else Cost(usd, tokens_in, tokens_out, model)
