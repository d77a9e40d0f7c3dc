"""What was paid is not lost when PostgreSQL is away, and what was not made is given back."""

from __future__ import annotations

import pytest

from pgonly_django import budget
from pgonly_django.database.operation import run
from pgonly_django.exceptions import LimitsUnansweredError, LimitsUnavailableError
from pgonly_django.limits import budget as budget_module
from pgonly_django.limits import pool_user
from pgonly_django.limits.budget_statements import RESERVE
from pgonly_django.models import Reservation
from tests import activity
from tests.limits.rows import assert_does_not_fit, costs, money, no_connections, spend, state
from tests.waiting import cancel_once, wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_cost_that_cannot_be_settled_now_is_settled_when_the_database_is_back(caplog):
    with budget("p", 1).reserve(0.4) as reservation, no_connections():
        reservation.settle(0.1)
        assert state() == money(0, 0.4)
        assert "will be settled when PostgreSQL is available again" in caplog.text
    wait_for(lambda: state() == money(0.1, 0), what="the settlement")
    assert costs() == list(money(0.1))


def test_a_reservation_without_a_database_raises_outside_of_jobs(monkeypatch):
    monkeypatch.setattr(budget_module, "PATIENCE_SECONDS", 0)
    spend(0, 1)
    with no_connections(), pytest.raises(LimitsUnavailableError):
        spend(0.1, 1)


def test_what_a_cancelled_caller_was_about_to_reserve_is_given_back(other):
    spend(0, 1)

    async def pay():
        async with budget("p", 1).reserve(0.4):
            pytest.fail("it was cancelled")

    with other.transaction():
        other.execute("SELECT FROM pgonly_budget FOR UPDATE")
        cancel_once(somebody_waits, pay())
    wait_for(lambda: not somebody_waits(), what="the statement's end")
    wait_for(lambda: state() == money(0, 0), what="the release")
    wait_for(lambda: not Reservation.objects.exists(), what="the release")


@pytest.mark.slow
def test_what_postgresql_reserves_after_it_has_said_no_to_a_second_try_is_given_back(monkeypatch):
    asked, really_call = [], budget_module.call

    def call(pool, statement, **values):
        if statement is RESERVE:
            asked.append(values)
            if len(asked) == 1:
                raise LimitsUnansweredError("It is read later.")
        return really_call(pool, statement, **values)

    with budget("p", 1).reserve(1) as all_there_is:
        monkeypatch.setattr(budget_module, "call", call)
        assert_does_not_fit(0.4, 1)
        all_there_is.release()
    run(really_call(pool_user.pool(), RESERVE, **asked[0]))
    wait_for(lambda: state() == money(0, 0), what="the release")


def test_a_settle_that_is_interrupted_is_done_all_the_same(other):
    async def pay():
        async with budget("p", 1).reserve(0.4) as reservation:
            other.execute("BEGIN; SELECT FROM pgonly_budget FOR UPDATE")
            await reservation.asettle(0.1)

    cancel_once(somebody_waits, pay())
    other.execute("ROLLBACK")
    wait_for(lambda: state() == money(0.1, 0), what="the settlement")


def somebody_waits():
    return activity.pids("wait_event_type = 'Lock'")
