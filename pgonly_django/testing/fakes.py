"""fake_limits(): limiters and budgets that let everything through at once, and remember it. They need no database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from typing import Any
from unittest import mock

from pgonly_django.conf import settings
from pgonly_django.database.operation import Operation, arun
from pgonly_django.exceptions import LimiterTimeoutError, UnknownBudgetError
from pgonly_django.limits import admission, budget, budget_settings, limiter
from pgonly_django.limits.admission import LimiterAdmission
from pgonly_django.limits.budget import BudgetReservation
from pgonly_django.limits.budget_statements import ReserveAnswer
from pgonly_django.limits.declarations import limits_of, unknown
from pgonly_django.limits.renewal import renewal


@dataclass
class LimiterUse:
    """One `with limiter(...)`. `tokens` and `requests`: what it has taken, once it is over; before that, what it has
    reserved."""

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
    """One reservation of a budget, of a step too. `spent`: None while it is open, 0 once it was released."""

    budget: str
    reserved: Decimal
    step: str
    spent: Decimal | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
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
        """From now on these let no caller in: LimiterTimeoutError. Raises UnknownLimiterError."""
        for name in limiters:
            _check_limiter(name)
        self._refused.update(limiters)

    def use_up(self, *budgets: str) -> None:
        """From now on nothing fits into these: a job is held, and other callers get BudgetExceededError."""
        for name in budgets:
            budget_settings.check_name(name)
        self._used_up.update(budgets)

    def allow(self, *names: str) -> None:
        """Let these limiters and budgets through again."""
        self._refused.difference_update(names)
        self._used_up.difference_update(names)

    def tokens(self, limiter: str) -> float:
        """Raises UnknownLimiterError: the sum of a misspelt one would always be 0."""
        _check_limiter(limiter)
        return sum(use.tokens for use in self.uses if use.name == limiter)

    def requests(self, limiter: str) -> float:
        """See tokens()."""
        _check_limiter(limiter)
        return sum(use.requests for use in self.uses if use.name == limiter)

    def spent(self, budget: str) -> Decimal:
        """By reservations that are settled."""
        return sum((use.spent or Decimal(0) for use in self.reservations if use.budget == budget), Decimal(0))


@contextmanager
def fake_limits() -> Iterator[FakeLimits]:
    """In the block no limiter and no budget waits, refuses or writes, in every thread of this process. What they are
    asked for is checked as always: a limiter that is not declared raises UnknownLimiterError.

    `with fake_limits() as limits:` and then `limits.uses`, `limits.cool_downs`, `limits.reservations`; with
    `limits.refuse("deepseek")` and `limits.use_up("project:7")` the test says what fails.
    """
    fakes = FakeLimits()
    seams = _Seams(fakes)
    with ExitStack() as patches:
        for target, name, fake in seams.all():
            patches.enter_context(mock.patch.object(target, name, fake))
        try:
            yield fakes
        finally:
            seams.close()


class _NoPool:
    """Runs operations that wait for nothing."""

    alias = "fake_limits"

    def arun(self, operation: Operation[Any]) -> Awaitable[Any]:
        return arun(operation)


class _Seams:
    """What stands between limiters, budgets and the database, replaced. `held` is what a limiter or a budget gave."""

    def __init__(self, fakes: FakeLimits) -> None:
        self.fakes = fakes
        self._uses: dict[LimiterAdmission, LimiterUse] = {}
        self._spending: dict[BudgetReservation, BudgetUse] = {}
        self._pool = _NoPool()

    def all(self) -> Iterator[tuple[Any, str, Any]]:
        yield limiter, "pool", lambda: self._pool
        yield limiter, "cool_down", lambda _, name, seconds: self._cool_down(name, seconds)
        yield renewal, "keep", lambda _: None
        yield LimiterAdmission, "enter", _as_method(self._enter)
        yield LimiterAdmission, "leave", _as_method(self._leave)
        yield LimiterAdmission, "abandon", lambda held: setattr(held, "is_in", False)
        yield budget, "pool", lambda: self._pool
        yield BudgetReservation, "_try", lambda held, _: self._reserve(held)
        yield BudgetReservation, "_write", _as_method(self._settle)

    def close(self) -> None:
        """No caller is inside of what was faked."""
        for held in self._uses:
            held.is_in = False

    def _enter(self, held: LimiterAdmission, timeout: float) -> Operation[None]:
        admission.raise_if_interrupted()
        _check_limiter(held.name)
        if held.name in self.fakes._refused:  # noqa: SLF001 - our own
            raise LimiterTimeoutError(held.name, timeout if isfinite(timeout) else 0)
        limits = limits_of(held.name, settings().limiters[held.name])
        held.is_in, held.has_slot = True, limits["concurrent"] is not None
        taken = held.tokens, held.requests
        self._uses[held] = LimiterUse(held.name, *taken, *taken)
        self.fakes.uses.append(self._uses[held])
        return
        yield

    def _leave(self, held: LimiterAdmission, requests: float, tokens: float) -> Operation[None]:
        use = self._uses[held]
        use.requests, use.tokens, use.is_over = requests, tokens, True
        held.is_in = False
        return
        yield

    def _cool_down(self, name: str, seconds: float) -> Operation[None]:
        _check_limiter(name)
        self.fakes.cool_downs.append(LimiterCoolDown(name, seconds))
        return
        yield

    def _reserve(self, held: BudgetReservation) -> Operation[ReserveAnswer]:
        declaration = held._declaration  # noqa: SLF001 - what it was made with
        if declaration is None:
            raise UnknownBudgetError(held.budget, budget_settings.nearest(held.budget))
        cap, spent = declaration.usd, self.fakes.spent(held.budget)
        if held.budget in self.fakes._used_up:  # noqa: SLF001 - our own
            return ReserveAnswer(False, cap, cap, Decimal(0))
        self._spending[held] = BudgetUse(held.budget, held.usd, held.step)
        self.fakes.reservations.append(self._spending[held])
        return ReserveAnswer(True, cap, spent, held.usd)
        yield

    def _settle(
        self, held: BudgetReservation, *, usd: Decimal, is_estimate: int, **values: Any
    ) -> Operation[bool]:
        use = self._spending[held]
        use.spent, use.is_estimate = usd, bool(is_estimate)
        use.tokens_in, use.tokens_out = values["tokens_in"], values["tokens_out"]
        return True
        yield


def _as_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, which becomes a method: a bound one would stay what it is."""

    def method(held: Any, *args: Any, **values: Any) -> Any:
        return function(held, *args, **values)

    return method


def _check_limiter(name: str) -> None:
    if name not in settings().limiters:
        raise unknown(name)
