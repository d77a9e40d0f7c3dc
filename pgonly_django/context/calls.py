"""The calls of a run's steps: how long they take, the pauses after an error that asks for one, and what they cost."""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

from pgonly_django.amounts import Amount, Cost, Costed
from pgonly_django.context.output import StepCall, calls_around
from pgonly_django.events import emit
from pgonly_django.exceptions import JobInterrupt, WrongArgumentsError
from pgonly_django.plugins import PayingBudget, payer
from pgonly_django.queue.checkpoints import StepCost

# A call may take longer than the longest so far, and its result has to be stored.
MARGIN, STORE_SECONDS = 1.2, 0.05

# All pauses of one step together. Ending the run and beginning another one costs two transactions and the place in the
# queue, and the backoff of a first snooze alone takes longer: 7.5 to 15 s.
SHORT_SECONDS = 5.0
# The shortest pause, also if the error asks for less: a provider that says 0 is called ten times at most.
SHORTEST_SECONDS = 0.5
# An amount, a Cost, or a function of the step's result that returns one of the two.
CostOf = Amount | Cost | Callable[[Any], Any]


class Calls:
    """The calls of one run. Steps may be called from several threads or asyncio tasks of the job at once."""

    __slots__ = (
        "_around", "_under_way", "active_at", "are_in_branches", "completed", "longest_seconds", "process_seconds",
        "until", "was_cut_off",
    )  # fmt: skip

    def __init__(self) -> None:
        self.until: float | None = None  # time.monotonic(); the process ends then, by its --max-seconds
        self.process_seconds = 0.0  # that --max-seconds
        self.longest_seconds = 0.0
        self.completed = 0
        self.was_cut_off = False  # by the interruption of the run
        self.active_at = 0.0  # time.monotonic() when a step or wait of the job began last, or a call ended
        # Whether another thread or asyncio task than the job's first one has called the context.
        self.are_in_branches = False
        # One entry each. A lock would not do: the job may be interrupted between two bytecodes, and leave it held.
        self._under_way: list[StepCall] = []
        self._around: list[None] = []

    @contextmanager
    def around(self) -> Iterator[None]:
        """Stands around reads and writes before and after calls: the run goes on in the meantime."""
        self._around.append(None)
        try:
            yield
        finally:
            self._around.pop()
            self.active_at = time.monotonic()

    @contextmanager
    def one(self, step: str) -> Iterator[StepCall]:
        """Stands around one call."""
        call = StepCall(step)
        token = calls_around.set((*calls_around.get(), call))
        self._under_way.append(call)
        try:
            yield call
            self.completed += 1
        except (JobInterrupt, CancelledError):
            self.was_cut_off = True
            raise
        finally:
            self._under_way.remove(call)
            self.active_at = time.monotonic()
            self.longest_seconds = max(self.longest_seconds, self.active_at - call.began)
            calls_around.reset(token)

    def lacks_time(self, seconds: float | None = None) -> bool:
        """Returns whether the process ends before something is done that takes `seconds`, or as long as the longest
        call. Inside a call nothing lacks time: the call around it would be lost."""
        needed = self.longest_seconds if seconds is None else seconds
        if self.until is None or needed == 0 or self.around_here:
            return False
        return time.monotonic() + needed * MARGIN + STORE_SECONDS > self.until

    @property
    def outlast_their_run(self) -> bool:
        """Whether the run did not come to the end of its first call. The next run makes that call again."""
        return self.completed == 0 and (self.was_cut_off or bool(self._under_way))

    @property
    def are_several(self) -> bool:
        """Whether more than one call is under way, some of which may wait for a reservation."""
        return len(self._under_way) > 1

    @property
    def are_going_on(self) -> bool:
        """Whether a thread or asyncio task of the job is inside of around()."""
        return bool(self._around)

    @property
    def around_here(self) -> tuple[StepCall, ...]:
        """The calls that this code is inside of, the innermost one last."""
        return calls_around.get()

    def others_under_way(self, around_waits: Iterable[tuple[object, ...]]) -> bool:
        """Returns whether other threads or asyncio tasks of the job are in the middle of a call. The calls that are
        around the waits of the job wait themselves."""
        waiting = {*self.around_here, *chain.from_iterable(around_waits)}
        return not waiting.issuperset(self._under_way)


class StepPauses:
    """The pauses of one step. `asked` says how long its error asks to wait; None: the error leaves the step."""

    def __init__(self, asked: Callable[[BaseException], float | None]) -> None:
        self._asked = asked
        self._left_seconds = SHORT_SECONDS
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._until

    @contextmanager
    def after_error(self) -> Iterator[None]:
        """Stands around one call. Swallows an error after whose pause the step is called again."""
        try:
            yield
        except Exception as error:
            asked = self._asked(error)
            pause = None if asked is None else max(asked, SHORTEST_SECONDS)
            if pause is None or pause > self._left_seconds:
                raise
            self._left_seconds -= pause
            self._until = time.monotonic() + pause


class Spending:
    """The cost of the call of one step. `reservation` is the block around the call: a budget's, or an empty one."""

    def __init__(
        self,
        step: str,
        cost: CostOf | None,
        of: PayingBudget | str | None,
        reserve: Amount | None,
        one_call: bool,
    ) -> None:
        """Raises AmountError, BudgetError and WrongArgumentsError, before anything is paid."""
        self.step = step
        self._cost_of = cost if cost is None or callable(cost) else Cost.of(cost)
        self._cost: Cost | None = None  # known after the call has returned
        self._is_noted = False  # together with the step
        self._reservation: Any = None
        if of is not None:
            known = self._cost_of.usd if isinstance(self._cost_of, Cost) else 0
            amount = known if reserve is None else reserve
            self._reservation = payer().budget(of).reserve(amount, step=step, one_call=one_call)
        elif reserve is not None:
            raise WrongArgumentsError(
                "step()", f"reserve={reserve!r} needs the budget: step(..., budget=...)"
            )

    @property
    def reservation(self) -> Any:
        return self._reservation or nullcontext()

    def take(self, value: Any) -> Any:
        """Returns the result in what the function returned. Its cost counts from now on, whatever happens to it."""
        said = self._cost_of
        if isinstance(value, Costed):
            value, said = value.result, value.cost
        self._cost = self._known(said, value)
        if self._reservation is not None:
            self._reservation.known_cost = self._cost
            self._reservation.one_call = False  # an error from here on is not the call's
        return value

    def stored(self, alias: str, *, is_in_transaction: bool) -> StepCost | None:
        """Returns what is stored with the step, in the database `alias`. What was paid is noted together with it. If
        the costs are in another database, the cost is noted there by now: a process that dies between the two writes
        has paid. Inside a transaction, which may be rolled back, the reservation notes it."""
        if self._cost is None:
            return None
        is_noted = payer().note_cost(alias, self.step, self._cost, self._reservation)
        if self._reservation is None:
            return StepCost(self._cost, is_noted=is_noted)
        self._is_noted = is_noted and not is_in_transaction
        return StepCost(self._cost, self._reservation.budget, self._reservation.id, is_noted=self._is_noted)

    def settle(self, *, is_new: bool) -> None:
        """Settles the cost when the step is kept; with this result, where it `is_new`."""
        if self._reservation is not None and self._cost is not None:
            self._reservation.settle_step(self._cost, is_recorded=not (is_new and self._is_noted))

    def _known(self, said: Any, result: Any) -> Cost | None:
        """Returns None without a cost that can be stored: a paid result is not thrown away for that."""
        try:
            said = said(result) if callable(said) else said
            return None if said is None else Cost.of(said)
        except Exception as error:  # noqa: BLE001 - a function of the project may raise anything
            message = f"The cost of step {self.step!r} is not known: {error!r:.500}"
            emit("limits.cost_unknown", message, level=logging.ERROR, exc_info=True, step=self.step)
            return None
