"""fake_limits(): limiters and budgets that let everything through at once, and remember it. They need no database."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from typing import Any, ClassVar
from unittest import mock

from pgonly_django.amounts import Cost
from pgonly_django.conf import settings
from pgonly_django.current_job import CurrentJob
from pgonly_django.database.operation import Operation, arun
from pgonly_django.exceptions import LimiterTimeoutError, UnknownBudgetError
from pgonly_django.limits import budget, budget_settings, limiter, plugin
from pgonly_django.limits.admission import LimiterAdmission, raise_if_interrupted
from pgonly_django.limits.budget import BudgetReservation
from pgonly_django.limits.budget_statements import ReserveAnswer
from pgonly_django.limits.declarations import limits_of, unknown
from pgonly_django.limits.renewal import renewal


@dataclass
class LimiterUse:
    """One `with limiter(...)`. `tokens`, `requests`: what it took; before its end, what it has reserved."""

    name: str
    tokens: float
    requests: float
    reserved_tokens: float
    reserved_requests: float
    is_over: bool = False


@dataclass
class LimiterCoolDown:
    """One cool_down() or too_many_requests()."""

    name: str
    seconds: float


@dataclass
class BudgetUse:
    """One reservation of a budget, also of a step. `spent`: None while it is open, 0 after it was released."""

    budget: str
    reserved: Decimal
    step: str
    spent: Decimal | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    model: str | None = None
    is_estimate: bool = False  # no cost was said: what was reserved counts


@dataclass
class FakeLimits:
    """What was used, in order, and what is refused."""

    uses: list[LimiterUse] = field(default_factory=list)
    cool_downs: list[LimiterCoolDown] = field(default_factory=list)
    reservations: list[BudgetUse] = field(default_factory=list)
    _refused: set[str] = field(default_factory=set)
    _used_up: set[str] = field(default_factory=set)

    def refuse(self, *limiters: str) -> None:
        """Makes these limiters let no caller in: LimiterTimeoutError. Raises UnknownLimiterError."""
        for name in limiters:
            _check_limiter(name)
        self._refused.update(limiters)

    def use_up(self, *budgets: str) -> None:
        """Makes nothing fit into these budgets: a job is held, and other callers get BudgetExceededError."""
        for name in budgets:
            budget_settings.check_name(name)
        self._used_up.update(budgets)

    def allow(self, *names: str) -> None:
        """Lets these limiters and budgets through again."""
        self._refused.difference_update(names)
        self._used_up.difference_update(names)

    def tokens(self, limiter: str) -> float:
        """Returns the sum. Raises UnknownLimiterError: the sum of a misspelt one would always be 0."""
        _check_limiter(limiter)
        return sum(use.tokens for use in self.uses if use.name == limiter)

    def requests(self, limiter: str) -> float:
        """See tokens()."""
        _check_limiter(limiter)
        return sum(use.requests for use in self.uses if use.name == limiter)

    def spent(self, budget: str) -> Decimal:
        """Returns what the settled reservations have spent."""
        return sum((use.spent or Decimal(0) for use in self.reservations if use.budget == budget), Decimal(0))


@contextmanager
def fake_limits() -> Iterator[FakeLimits]:
    """Makes every limiter and budget in the block let callers in at once, without waiting, refusing or writing, in
    every thread of this process. Their arguments are checked as always: a limiter that is not declared raises
    UnknownLimiterError.

        with fake_limits() as limits:
            limits.refuse("deepseek")
            limits.use_up("project:7")
            drain()
        assert limits.uses == []

    The object records what was used in `uses`, `cool_downs` and `reservations`.
    """
    fakes, pool = FakeLimits(), _NoPool()

    def cool_down(_: Any, name: str, seconds: float) -> Operation[None]:
        _check_limiter(name)
        fakes.cool_downs.append(LimiterCoolDown(name, seconds))
        return
        yield

    replaced: list[tuple[Any, str, Any]] = [
        (limiter, "pool", lambda: pool),
        (limiter, "cool_down", cool_down),
        (limiter, "LimiterAdmission", type("Admission", (_FakeAdmission,), {"fakes": fakes})),
        (budget, "pool", lambda _: pool),
        (plugin, "note_cost", lambda *_: None),
        (budget, "BudgetReservation", type("Reservation", (_FakeReservation,), {"fakes": fakes})),
        (renewal, "keep", lambda _: None),
    ]
    with ExitStack() as patches:
        for target, name, fake in replaced:
            patches.enter_context(mock.patch.object(target, name, fake))
        yield fakes


class _NoPool:
    """Runs operations that wait for nothing."""

    alias = "fake_limits"

    def arun(self, operation: Operation[Any]) -> Awaitable[Any]:
        return arun(operation)


class _FakeAdmission(LimiterAdmission):
    """An admission that is let in at once."""

    fakes: ClassVar[FakeLimits]
    use: LimiterUse

    def __del__(self) -> None:
        """Does nothing: it has taken nothing that could be given back."""

    def enter(self, timeout: float) -> Operation[None]:
        raise_if_interrupted()
        _check_limiter(self.name)
        if self.name in self.fakes._refused:  # noqa: SLF001 - our own
            raise LimiterTimeoutError(self.name, timeout if isfinite(timeout) else 0)
        limits = limits_of(self.name, settings().limiters[self.name])
        self.is_in, self.has_slot = True, limits["concurrent"] is not None
        self.use = LimiterUse(self.name, self.tokens, self.requests, self.tokens, self.requests)
        self.fakes.uses.append(self.use)
        return
        yield

    def leave(self, requests: float, tokens: float) -> Operation[None]:
        self.use.requests, self.use.tokens, self.use.is_over = requests, tokens, True
        self.is_in = False
        return
        yield

    def abandon(self) -> None:
        self.is_in = False


class _FakeReservation(BudgetReservation):
    """A reservation that is made at once, unless the test has used its budget up."""

    fakes: ClassVar[FakeLimits]
    use: BudgetUse

    def _try(self, job: CurrentJob | None) -> Operation[ReserveAnswer]:  # noqa: ARG002 - the overridden signature
        if self._declaration is None:
            raise UnknownBudgetError(self.budget, budget_settings.nearest(self.budget))
        cap, spent = self._declaration.usd, self.fakes.spent(self.budget)
        if self.budget in self.fakes._used_up:  # noqa: SLF001 - our own
            return ReserveAnswer(False, cap, cap, Decimal(0))
        self.use = BudgetUse(self.budget, self.usd, self.step)
        self.fakes.reservations.append(self.use)
        return ReserveAnswer(True, cap, spent, self.usd)
        yield

    def _write(self, cost: Cost, *, is_recorded: bool, is_estimate: bool = False) -> Operation[bool]:  # noqa: ARG002 - the overridden signature
        self.use.spent, self.use.is_estimate = cost.usd, is_estimate
        self.use.tokens_in, self.use.tokens_out, self.use.model = cost.tokens_in, cost.tokens_out, cost.model
        return True
        yield


def _check_limiter(name: str) -> None:
    if name not in settings().limiters:
        raise unknown(name)
