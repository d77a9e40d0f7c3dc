"""What a worker had reserved when it was killed, frozen or stopped in the middle of a paid call."""

from __future__ import annotations

import signal

import pytest

from pgonly_django.limits import expiry
from pgonly_django.models import Budget, CostEntry, Reservation, State
from pgonly_django.models.checkpoint import Step
from tests.jobs import spending
from tests.limits.rows import costs, make_reservations_expire, money, pids_of_limits, state
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture
def pay(workers, marks):
    """Starts a worker, and returns it in the middle of a paid call, with the result of its job."""

    def start(seconds, *flags):
        Budget.objects.create(name="p", usd=1)
        worker = workers.start("--threads", "1", *flags)
        result = spending.pay_and_stay.enqueue(seconds)
        wait_for(lambda: "paying" in marks(), what="the call")
        return worker, result

    return start


def test_a_killed_worker_may_have_paid_and_its_job_pays_again_elsewhere(pay, workers):
    worker, result = pay(60)
    worker.kill()
    workers.start("--threads", "1")
    assert result.wait(40).return_value == "paid"
    assert state() == money(0.1, 0.4)
    make_reservations_expire()
    expiry.expire(settle_seconds=0)
    assert state() == money(0.5, 0)
    assert sorted(costs()) == list(money(0.1, 0.4))
    assert CostEntry.objects.get(is_estimate=True).job_id == result.job.pk


def test_a_worker_killed_while_it_settles_a_saved_step_has_spent_what_that_cost(workers, marks, other):
    """The row of the budget is locked, so that the settlement waits."""
    Budget.objects.create(name="p", usd=1)
    worker = workers.start("--threads", "1")
    spending.pay_for_a_slow_step.enqueue()
    wait_for(lambda: "paying" in marks(), what="the call")
    with other.transaction():
        other.execute("SELECT FROM pgonly_budget FOR UPDATE")
        wait_for(Step.objects.exists, what="the step")
        worker.kill()
        wait_for(lambda: not pids_of_limits("state = 'active'"), what="the end of its statement")
    make_reservations_expire()
    expiry.expire(settle_seconds=0)
    assert state() == money(0.1, 0)
    assert costs() == list(money(0.1))


def test_a_frozen_worker_settles_late_and_the_budget_has_the_truth(pay, workers):
    worker, result = pay(1)
    worker.send(signal.SIGSTOP)
    workers.start("--threads", "1")
    assert result.wait(40).return_value == "paid"
    make_reservations_expire()
    expiry.expire(settle_seconds=0)
    assert state() == money(0.5, 0)
    worker.send(signal.SIGCONT)
    wait_for(lambda: not Reservation.objects.exists(), what="the late settlement")
    # It was interrupted in its call, or has ended it.
    assert state() in (money(0.5, 0), money(0.2, 0))
    assert sum(costs()) == state()[0]


def test_a_stopped_worker_counts_the_call_that_it_has_cut_off(pay):
    worker, result = pay(60, "--grace-seconds", "1")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert result.job.state == State.READY
    make_reservations_expire()
    expiry.expire(settle_seconds=0)
    assert (state(), costs()) == (money(0.4, 0), list(money(0.4)))
