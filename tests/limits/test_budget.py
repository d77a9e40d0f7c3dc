"""Reserve before a call, settle behind it: what a budget knows is true whatever happens between the two."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from decimal import Decimal

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.test import TestCase

from pgonly_django import budget
from pgonly_django.amounts import Cost
from pgonly_django.exceptions import (
    AmountError,
    BudgetError,
    JobStopped,
    UnknownBudgetError,
)
from pgonly_django.limits import expiry
from pgonly_django.limits.pool_user import background
from pgonly_django.limits.renewal import renewal
from pgonly_django.models import Budget, CostEntry, Reservation
from tests.limits.rows import (
    assert_does_not_fit,
    costs,
    end_period,
    make_reservations_expire,
    money,
    spend,
    state,
)
from tests.waiting import beside

pytestmark = pytest.mark.django_db(transaction=True)


class AnswerError(Exception):
    def __init__(self, status_code):
        self.status_code = status_code
        super().__init__(f"answered {status_code}")


def test_what_a_call_costs_is_reserved_before_it_and_spent_behind_it():
    with budget("p", 1).reserve(0.4) as reservation:
        assert state() == money(0, 0.4)
        reservation.settle(0.013, tokens_in=900, tokens_out=7, model="large")
    assert state() == money(0.013, 0)
    columns = "budget", "usd", "tokens_in", "tokens_out", "model", "job_id"
    assert list(CostEntry.objects.values_list(*columns)) == [("p", Decimal("0.013"), 900, 7, "large", None)]
    assert not Reservation.objects.exists()


def test_an_odd_name_of_a_model_does_not_make_a_known_cost_an_estimate():
    with budget("p", 1).reserve(0.4) as reservation:
        reservation.settle(0.013, model="large\n")
    assert CostEntry.objects.values_list("usd", "model", "is_estimate").get() == (
        Decimal("0.013"),
        "large",
        False,
    )


def test_async_code_reserves_and_settles_too():
    async def pay():
        async with budget("p", 1).reserve("0.4") as reservation:
            await reservation.asettle(0.013, model="large")
        async with budget("p").reserve(0.1) as reservation:
            await reservation.arelease()

    asyncio.run(pay())
    assert state() == money(0.013, 0)
    assert CostEntry.objects.get().model == "large"


def test_a_plain_with_in_a_coroutine_is_refused_and_reserves_nothing():
    async def pay():
        with budget("p", 1).reserve(0.4):
            pass

    with pytest.raises(SynchronousOnlyOperation, match=r"budget\('p'\).*Use `async with`"):
        asyncio.run(pay())
    assert not Budget.objects.exists()


def test_what_does_not_fit_is_refused_with_all_figures():
    with budget("p", 1).reserve(0.5), budget("p", 1).reserve(Decimal("0.5")) as last:
        error = assert_does_not_fit("0.000001", 1)
        last.settle(0.3)
    assert (error.usd, error.spent, error.reserved) == money(1, 0, 1)
    assert "no 0.000001 USD left: 0 of its cap of 1 is spent and 1 is reserved" in str(error)
    assert state() == money(0.8, 0)
    spend(0.2, 1)


def test_a_true_cost_above_the_reservation_is_recorded_also_above_the_cap():
    spend(0.9, 1, cost=1.5)
    assert state() == money(1.5, 0)
    assert costs() == list(money(1.5))
    assert_does_not_fit(0)


@pytest.mark.parametrize(
    ("error", "spent"),
    [
        (KeyError("choices"), 0.4),  # in the answer, which was paid
        (TimeoutError(), 0.4),
        (AnswerError(504), 0.4),
        (JobStopped(), 0.4),
        (AnswerError(429), 0),
        (AnswerError(400), 0),
        (ConnectionRefusedError(), 0),
    ],
    ids=repr,
)
def test_an_exception_of_the_one_call_of_a_block_gives_back_only_what_was_surely_not_paid(error, spent):
    with pytest.raises(type(error)), budget("p", 1).reserve(0.4, one_call=True):
        raise error
    assert state() == money(spent, 0)
    assert costs() == list(money(spent) if spent else ())


NOT_OF_THE_PAID_CALL = [
    AnswerError(429),  # of the second request of the block
    ConnectionRefusedError(),  # of a webhook that is told the answer
    socket.gaierror(),  # of the mail with the answer
    type("ValidationError", (Exception,), {"status": 400})(),  # of the answer
]


@pytest.mark.parametrize("error", NOT_OF_THE_PAID_CALL, ids=repr)
def test_an_exception_out_of_a_block_that_may_have_paid_before_counts_what_was_reserved(error):
    with pytest.raises(type(error)), budget("p", 1).reserve(0.4):
        raise error

    async def pay():
        async with budget("p").reserve(0.2):
            raise error

    with pytest.raises(type(error)):
        asyncio.run(pay())
    assert state() == money(0.6, 0)
    assert costs() == list(money(0.4, 0.2))


def test_a_second_settle_says_so_and_counts_nothing():
    with budget("p", 1).reserve(0.4) as reservation:
        reservation.settle(0.1)
        with pytest.raises(BudgetError, match="settled or released already"):
            reservation.settle(0.1)
        with pytest.raises(BudgetError, match="settled or released already"):
            reservation.release()
    assert state() == money(0.1, 0)


def test_a_settle_that_is_refused_for_its_amount_may_be_said_again():
    with budget("p", 1).reserve(0.1) as reservation:
        with pytest.raises(AmountError):
            reservation.settle(-0.01)
        reservation.settle(0.05)
    assert state() == money(0.05, 0)


def test_a_settle_whose_answer_was_lost_counts_once():
    with budget("p", 1).reserve(0.4) as reservation:
        reservation.settle(0.1)
        reservation._is_over = False  # as after an answer that got lost
        reservation.settle(0.1)
    assert state() == money(0.1, 0)
    assert costs() == list(money(0.1))


def test_a_reserve_whose_answer_was_lost_reserves_once():
    with budget("p", 1).reserve(0.4) as reservation:
        reservation._opened_by = None
        reservation.__enter__()
        assert state() == money(0, 0.4)
    assert state() == money(0.4, 0)


def test_a_reservation_serves_one_block():
    reservation = budget("p", 1).reserve(0.4)
    with pytest.raises(BudgetError, match="is not open"):
        reservation.settle(0.1)
    with reservation:
        pass
    with pytest.raises(BudgetError, match="call reserve\\(\\) again"), reservation:
        pass
    assert state() == money(0.4, 0)


def test_a_reservation_that_is_entered_inside_its_own_block_stays_as_it_is():
    with budget("p", 1).reserve(0.4) as reservation:
        with pytest.raises(BudgetError, match="call reserve\\(\\) again"), reservation:
            pass
        reservation.settle(0.3)
    assert state() == money(0.3, 0)
    assert costs() == list(money(0.3))


def test_the_callers_transaction_neither_undoes_nor_holds_up_a_reservation():
    with suppress(KeyError), transaction.atomic():
        Budget.objects.exists()
        with budget("p", 1).reserve(0.4) as reservation:
            reservation.settle(0.3)
        with beside(spend, 0.2):
            pass
        raise KeyError
    assert state() == money(0.5, 0)
    assert costs() == list(money(0.3, 0.2))


def test_a_reservation_that_expired_counts_as_spent_and_says_for_what(caplog):
    open_one = budget("p", 1).reserve(0.4, step="ask")
    open_one.__enter__()
    make_reservations_expire()
    (expired,) = expiry.expire(settle_seconds=0)
    assert (expired.id, expired.budget, expired.usd) == (open_one.id, "p", Decimal("0.4"))
    assert state() == money(0.4, 0)
    assert list(CostEntry.objects.values_list("usd", "step", "is_estimate")) == [
        (Decimal("0.4"), "ask", True)
    ]
    assert expiry.expire(settle_seconds=0) == []


@pytest.mark.parametrize("true_cost", [0.1, 0.7])
def test_a_settle_behind_the_end_of_the_lease_corrects_what_was_counted(true_cost):
    with budget("p", 1).reserve(0.4) as reservation:
        make_reservations_expire()
        expiry.expire(settle_seconds=0)
        reservation.settle(true_cost)
    assert state() == money(true_cost, 0)
    assert costs() == list(money(true_cost))
    assert not CostEntry.objects.get().is_estimate


def test_an_expired_reservation_is_forgotten_after_a_day():
    with budget("p", 1).reserve(0.4) as reservation:
        make_reservations_expire()
        expiry.expire(settle_seconds=0)
        Reservation.objects.update(expires_at="2020-01-01T00:00Z")
        expiry.expire(settle_seconds=0)
        assert not Reservation.objects.exists()
        reservation.settle(0.1)
    assert state() == money(0.4, 0)


@pytest.mark.parametrize("per", ["hour", "day", "week", "month", "year"])
def test_a_budget_begins_anew_with_its_period(per):
    spend(1, 1, per=per)
    assert_does_not_fit(0.1, 1, per=per)
    end_period()
    with budget("p", 1, per=per).reserve(0.9) as reservation:
        assert state() == money(0, 0.9)
        reservation.settle(0.2)
    assert state() == money(0.2, 0)


def test_what_is_under_way_when_a_period_ends_counts_in_the_next_one():
    with budget("p", 1, per="day").reserve(0.6) as reservation:
        end_period()
        assert_does_not_fit(0.5, 1, per="day")
        reservation.settle(0.5)
    assert state() == money(0.5, 0)


def test_what_expired_in_an_earlier_period_is_not_spent_in_this_one():
    budget("p", 1, per="day").reserve(0.6).__enter__()
    Reservation.objects.update(expires_at="2020-01-01T00:00Z")
    end_period()
    expiry.expire(settle_seconds=0)
    assert state() == money(0, 0)


def test_a_period_ends_at_midnight_of_its_time_zone():
    for name, zone in (("west", "Pacific/Pago_Pago"), ("east", "Pacific/Kiritimati")):
        spend(0.1, 1, name=name, per="day", timezone=zone)
    starts = dict(Budget.objects.values_list("name", "period_start"))
    assert (starts["west"].hour, starts["east"].hour) == (11, 10)


def test_a_budget_that_nobody_has_given_a_cap_is_an_error_that_names_the_nearest(settings):
    settings.PGONLY = {"BUDGETS": {"project": {"usd": 5}}}
    with pytest.raises(UnknownBudgetError, match="Did you mean 'project'") as caught:
        spend(1, name="projetc")
    assert "budget('projetc', usd=5)" in str(caught.value)
    assert not Budget.objects.exists()


def test_a_budget_made_in_the_admin_needs_no_cap_in_the_code():
    Budget.objects.create(name="p", usd=1)
    spend(0.4)
    assert state() == money(0.4, 0)


def exit_code_of(work):
    """Of a forked child that does `work`: the number of things that it left to the background, or 111 after a
    BudgetError."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 112
    try:
        work()
        code = len(background._undone) + (background._thread is not None)
    except BudgetError:
        code = 111
    finally:
        os._exit(code)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda reservation: reservation.__exit__(None, None, None), 0),
        (lambda reservation: reservation.settle_step(Cost("0.1"), is_recorded=True), 0),
        (lambda reservation: reservation._give_back_later(), 0),
        (lambda reservation: reservation.settle(0.1), 111),
        (lambda reservation: reservation.release(), 111),
    ],
    ids=["exit", "step", "interrupted", "settle", "release"],
)
def test_a_forked_child_leaves_its_parents_reservation_alone(end, code):
    with budget("p", 1).reserve(0.4) as reservation:
        assert exit_code_of(lambda: end(reservation)) == code
        assert state() == money(0, 0.4)
        assert reservation in renewal._held
        reservation.settle(0.3)
    assert (state(), costs()) == (money(0.3, 0), list(money(0.3)))


def test_a_forked_child_enters_a_reservation_that_its_parent_has_only_made():
    reservation = budget("p", 1).reserve(0.4)

    def spend_it():
        with reservation:
            reservation.settle(0.3)

    assert exit_code_of(spend_it) == 0
    assert (state(), costs()) == (money(0.3, 0), list(money(0.3)))


def test_a_budget_that_was_deleted_is_made_again():
    with budget("p", 1).reserve(0.4):
        Budget.objects.all().delete()
    assert costs() == list(money(0.4))
    spend(0.3, 1)
    assert state() == money(0.3, 0)


class InATestCase(TestCase):
    """A budget inside a TestCase is part of what the test rolls back."""

    def test_it_works_and_is_rolled_back(self):
        spend(0.4, 1, cost=0.1)
        assert state() == money(0.1, 0)

    test_again = test_it_works_and_is_rolled_back
