from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal

import pytest

from pgonly_django import budget, limiter
from pgonly_django.exceptions import (
    AmountError,
    BudgetError,
    BudgetExceededError,
    LimiterTimeoutError,
    NestedLimiterError,
    UnknownBudgetError,
    UnknownLimiterError,
    WrongArgumentsError,
)
from pgonly_django.limits.pool_user import background
from pgonly_django.limits.renewal import renewal
from pgonly_django.models import Budget, CostEntry, Job, Limiter, Reservation, Step
from pgonly_django.testing import drain, fake_limits
from pgonly_django.testing.fakes import BudgetUse, LimiterCoolDown, LimiterUse
from tests.jobs import drained
from tests.testing.conftest import both


@pytest.fixture
def limits(declared):
    """None of these tests may use the database, unless it says so."""
    declared(deepseek={"concurrent": 1, "requests_per_minute": 1}, open={})
    with fake_limits() as limits:
        yield limits


def test_a_limiter_lets_all_in_at_once_and_remembers_them(limits):
    for _ in range(3):  # with one request a minute
        with limiter("deepseek", tokens=900) as use:
            assert not renewal._held  # no lease is renewed
            assert limits.uses[-1] == LimiterUse("deepseek", 900, 1, 900, 1)
            use.tokens = 950
    assert limits.uses == [LimiterUse("deepseek", 950, 1, 900, 1, is_over=True)] * 3
    assert (limits.tokens("deepseek"), limits.requests("deepseek"), limits.tokens("open")) == (2850, 3, 0)
    assert use.waited_seconds < 1


def test_in_coroutines_too(limits):
    async def ask():
        async with limiter("open", tokens=5, requests=2) as use:
            await use.acool_down(7)
        async with budget("project", usd=5).reserve(2) as reservation:
            await reservation.asettle(1)

    async def ask_often():
        await asyncio.gather(*(ask() for _ in range(5)))

    asyncio.run(ask_often())
    assert limits.uses == [LimiterUse("open", 5, 2, 5, 2, is_over=True)] * 5
    assert limits.spent("project") == 5


def test_in_threads_too(limits):
    def ask():
        with limiter("deepseek"):
            pass

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(ask) for _ in range(8)]:
            done.result()
    assert limits.requests("deepseek") == 8


def test_cool_downs_are_remembered_and_stop_nobody(limits):
    limiter("deepseek").cool_down(timedelta(minutes=1))
    with limiter("deepseek") as use:
        assert use.too_many_requests({"Retry-After": "7"}) == 7
    with limiter("deepseek"):
        pass
    assert limits.cool_downs == [LimiterCoolDown("deepseek", 60), LimiterCoolDown("deepseek", 7)]


def test_a_limiter_is_refused_where_the_test_says_so(limits):
    limits.refuse("deepseek")
    with limiter("open"), pytest.raises(LimiterTimeoutError), limiter("deepseek"):
        pass
    limits.allow("deepseek")
    with limiter("deepseek"):
        pass
    assert [use.name for use in limits.uses] == ["open", "deepseek"]


def test_mistakes_are_those_of_real_limiters(limits):
    with pytest.raises(UnknownLimiterError, match="Did you mean 'deepseek'"), limiter("depseek"):
        pass
    with pytest.raises(UnknownLimiterError):
        limiter("depseek").cool_down(1)
    with pytest.raises(UnknownLimiterError):
        limits.refuse("depseek")
    for total in (limits.tokens, limits.requests):
        with pytest.raises(UnknownLimiterError):
            total("depseek")
    with pytest.raises(WrongArgumentsError):
        limiter("deepseek", tokens=-1)
    with limiter("deepseek"), pytest.raises(NestedLimiterError), limiter("deepseek"):
        pass
    with limiter("open"), limiter("open"):  # has no slots
        pass


def test_a_budget_keeps_what_was_reserved_and_spent(limits):
    project = budget("project", usd=1)
    with project.reserve(3) as reservation:  # more than its cap
        assert limits.reservations == [BudgetUse("project", Decimal(3), "")]
        reservation.settle(2, tokens_in=10, tokens_out=20, model="large")
    with project.reserve("0.5", step="ask"):
        pass
    with project.reserve(1) as reservation:
        reservation.release()
    assert limits.reservations == [
        BudgetUse("project", Decimal(3), "", Decimal(2), 10, 20, "large"),
        BudgetUse("project", Decimal("0.5"), "ask", Decimal("0.5"), is_estimate=True),
        BudgetUse("project", Decimal(1), "", Decimal(0)),
    ]
    assert limits.spent("project") == Decimal("2.5")


def test_a_budget_is_used_up_where_the_test_says_so(limits):
    limits.use_up("project")
    with pytest.raises(BudgetExceededError, match=r"Budget 'project' has no 0\.02 USD left"):
        budget("project", usd=5).reserve(0.02).__enter__()
    limits.allow("project")
    with budget("project", usd=5).reserve(0.02):
        pass


def test_mistakes_are_those_of_real_budgets(limits):
    with pytest.raises(UnknownBudgetError), budget("without a cap").reserve(1):
        pass
    with pytest.raises(AmountError):
        budget("project", usd=5).reserve(-1)
    with pytest.raises(BudgetError, match="settled or released already"):  # noqa: SIM117 - it is left behind it
        with budget("project", usd=5).reserve(1) as reservation:
            reservation.settle(1)
            reservation.settle(1)
    with pytest.raises(BudgetError):
        limits.use_up("")


@both
def test_jobs_use_them_and_write_no_row(where, limits):
    drained.use_a_limiter.enqueue(900)
    drained.pay_from_a_budget.enqueue()
    drain()
    assert limits.tokens("deepseek") == 901
    assert limits.reservations == [BudgetUse("project", Decimal("0.02"), "pay", Decimal("0.01"))]
    assert Step.objects.get().usd == Decimal("0.01")
    assert not (Limiter.objects.exists() or Budget.objects.exists() or Reservation.objects.exists())
    assert CostEntry.objects.get().budget == "project"  # the step's own, written with it


@both
def test_a_job_whose_budget_is_used_up_is_held(where, limits):
    limits.use_up("project")
    drained.pay_from_a_budget.enqueue()
    drain()
    job = Job.objects.get()
    assert (job.state, job.held_by) == ("held", "budget:project")
    limits.allow("project")
    Job.objects.resume()
    drain()
    assert Job.objects.get().state == "succeeded"


def test_behind_the_block_all_is_real_again(db, declared):
    declared(deepseek={"concurrent": 1})
    with fake_limits() as limits:
        left_open = limiter("deepseek")
        left_open.__enter__()
    with limiter("deepseek"):
        assert Limiter.objects.get().name == "deepseek"
    assert len(limits.uses) == 1
    del left_open
    assert not background._undone
