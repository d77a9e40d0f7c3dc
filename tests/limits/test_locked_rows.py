"""A transaction of the project that holds the row of one limiter or budget stops its calls, and no others."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack, contextmanager

import pytest
from django.db import transaction

from pgonly_django import budget
from pgonly_django.exceptions import LimiterTimeoutError, LimitsUnavailableError
from pgonly_django.limits import budget as budget_module
from pgonly_django.limits import pool_user
from pgonly_django.limits.pool_user import LOCK_SECONDS, _RowCall
from pgonly_django.models import Budget
from tests.limits.rows import costs, enter, money, spend, state
from tests.waiting import beside, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

CALLERS = 12  # three times as many as there are connections
SOON = 4 * LOCK_SECONDS


@pytest.fixture
def limits(settings):
    settings.PGONLY = {
        **settings.PGONLY,
        "LIMITERS": {"locked": {"tokens_per_minute": 1e6}, "x": {"concurrent": 1}},
    }


@pytest.fixture
def held(other, limits):
    """Holds the rows of the budget "locked" and of the limiter "locked", while many want them."""
    for name in ("locked", "b"):
        spend_of(name)
    enter("locked", tokens=1)
    enter("x")

    @contextmanager
    def hold(use):
        with ExitStack() as threads, other.transaction():
            other.execute("SELECT FROM pgonly_budget WHERE name = 'locked' FOR UPDATE")
            other.execute("SELECT FROM pgonly_limiter WHERE name = 'locked' FOR UPDATE")
            found = [threads.enter_context(beside(use)) for _ in range(CALLERS)]
            wait_for(lambda: len(pool_user._calls.get(("default", "locked"), ())) > 1, what="calls that wait")
            yield lambda: [outcome for outcomes in found for outcome in outcomes]

    return hold


def spend_of(name):
    spend(0.01, 100, name=name, cost=0.01)


@pytest.mark.parametrize(
    "use",
    [lambda: spend_of("locked"), lambda: enter("locked", None, tokens=1)],
    ids=["a budget", "a limiter"],
)
def test_while_a_row_is_locked_others_are_served_at_once(held, use):
    with held(use) as outcomes:
        until, slowest = time.monotonic() + 4 * LOCK_SECONDS, 0.0
        while time.monotonic() < until:
            began = time.monotonic()
            spend_of("b")
            enter("x", None)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < SOON
        assert not outcomes()
    assert outcomes() == [None] * CALLERS


def test_who_is_no_job_is_told_after_a_while_what_it_waits_for(held, monkeypatch):
    monkeypatch.setattr(budget_module, "PATIENCE_SECONDS", 0)
    with held(lambda: spend_of("locked")) as outcomes:
        wait_for(lambda: len(outcomes()) == CALLERS, what="the errors")
    assert {type(error) for error in outcomes()} == {LimitsUnavailableError}


def test_a_limiter_with_a_timeout_waits_no_longer(held):
    with held(lambda: enter("locked", 0.5, tokens=1)) as outcomes:
        wait_for(lambda: len(outcomes()) == CALLERS, what="the errors")
    assert {type(error) for error in outcomes()} <= {LimiterTimeoutError, LimitsUnavailableError}
    assert all("Another transaction holds the row of 'locked'" in str(error) for error in outcomes())


@pytest.mark.slow
def test_raise_cap_inside_an_open_transaction_lets_calls_settle_behind_its_commit(limits, caplog):
    caplog.set_level(logging.WARNING)
    reservation = budget("locked", 1).reserve(0.4)
    with reservation:
        with transaction.atomic():
            Budget.objects.filter(name="locked").raise_cap(2)
            began = time.monotonic()
            reservation.settle(0.1)
            assert time.monotonic() - began < SOON
            assert "Another transaction holds the row of 'locked'" in caplog.text
        wait_for(lambda: state("locked") == money(0.1, 0), what="the settlement")
    assert costs() == list(money(0.1))


def test_many_tasks_that_share_a_budget_take_turns(limits):
    async def use():
        async with budget("b", 100).reserve(0.01) as reservation:
            await reservation.asettle(0.01)

    async def use_all():
        await asyncio.gather(*(use() for _ in range(100)))

    asyncio.run(use_all())
    assert state("b") == money(1, 0)
    assert not pool_user._calls


def test_a_call_that_an_interruption_has_left_behind_stops_no_other(limits):
    spend_of("b")
    left = [_RowCall() for _ in range(10)]
    for call in left:
        call.began -= pool_user.LONGEST_SECONDS
    pool_user._calls["default", "b"] = left
    spend_of("b")
    assert state("b") == money(0.02, 0)
    pool_user._calls.clear()
