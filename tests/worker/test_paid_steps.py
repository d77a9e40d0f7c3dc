"""What a step costs is stored with it, once, and paid by its budget."""

from __future__ import annotations

import threading
from decimal import Decimal

import pytest
from django.db import connection

from pgonly_django import budget
from pgonly_django.amounts import Cost
from pgonly_django.compat import TaskContext
from pgonly_django.context.calls import Spending
from pgonly_django.exceptions import BudgetExceededError, LeaseLost
from pgonly_django.limits import expiry
from pgonly_django.models import Budget, CostEntry, Job, Reservation, State
from pgonly_django.models.checkpoint import Step
from pgonly_django.queue.checkpoints import StepCost, save_step
from pgonly_django.testing import fake_limits
from tests.aliases import alias
from tests.elsewhere import missing, needs_search_path
from tests.jobs import priced
from tests.limits.crowd import together
from tests.limits.rows import costs, make_reservations_expire, money, state
from tests.queue.rows import make_running


@pytest.fixture
def cap(transactional_db):
    def make(usd, name="p"):
        return Budget.objects.create(name=name, usd=usd)

    return make


@pytest.fixture
def one_dollar(cap):
    cap(1)


def test_a_cost_is_stored_with_its_step_and_among_the_costs(worked, marks):
    job = worked(priced.say_what_it_costs).job
    assert job.result == ["yes", "no", "yes"]
    columns = ("usd", "tokens_in", "tokens_out")
    expected = [
        (Decimal("0.005"), None, None),
        (Decimal("0.01"), 900, 7),
        (Decimal("0.02"), 5, 6),
    ]
    assert list(Step.objects.order_by("id").values_list(*columns)) == expected
    assert list(CostEntry.objects.order_by("id").values_list(*columns)) == expected
    assert set(CostEntry.objects.values_list("job_id", "task", "queue", "budget")) == {
        (job.pk, "tests.jobs.priced.say_what_it_costs", "default", "")
    }
    assert list(CostEntry.objects.order_by("id").values_list("step", "model")) == [
        ("fixed", ""),
        ("known behind it", ""),
        ("with the result", "large"),
    ]


def test_a_step_that_is_found_again_costs_nothing(worked, one_dollar, marks):
    job = worked(priced.pay_then_fail).job
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    assert (marks(), costs(), state()) == (["asked"], list(money(0.01)), money(0.01, 0))


@pytest.mark.parametrize(
    ("task", "reserved", "cost"),
    [
        (priced.pay_from_a_budget, "0.100000", 0.02),
        (priced.pay_from_a_budget.using(), "0.100000", 0.02),
        (priced.pay_what_the_result_says, None, 0.02),
    ],
)
def test_a_budget_reserves_before_the_call_and_pays_what_it_cost(
    worked, one_dollar, marks, task, reserved, cost
):
    job = worked(task).job
    if reserved:
        assert job.result == reserved
    assert state() == money(cost, 0)
    assert list(CostEntry.objects.values_list("budget", "usd", "step", "model")) == [
        ("p", money(cost)[0], "pay", "" if reserved else "large")
    ]


def test_a_fixed_cost_is_what_is_reserved(worked, one_dollar, marks):
    assert worked(priced.pay_from_a_budget, reserve=None).job.result == "0.020000"


def test_over_the_cap_a_job_is_held_before_the_call_and_found_steps_need_no_room(work, cap, marks):
    cap(0.12)
    result = priced.pay_from_a_budget.enqueue()
    work(threads=1)
    assert result.job.state == State.SUCCEEDED
    other = priced.pay_from_a_budget.enqueue(name="other")
    Budget.objects.update(usd="0.05")
    work(threads=1)
    assert (other.job.state, other.job.held_by) == (State.HELD, "budget:p")
    assert marks() == ["asked"]
    result.retry()
    Job.objects.filter(pk=result.id).update(state="ready", attempt=0)
    work(threads=1)
    assert result.job.state == State.SUCCEEDED
    assert marks() == ["asked"]


def test_a_cost_that_cannot_be_computed_loses_no_result(worked, one_dollar, marks, caplog):
    assert worked(priced.do_not_know_the_cost).job.result == "yes"
    assert "The cost of step 'pay' is not known: KeyError('price')" in caplog.text
    assert (state(), Step.objects.get().usd) == (money(0.1, 0), None)
    assert list(CostEntry.objects.values_list("usd", "is_estimate")) == [(Decimal("0.1"), True)]


@pytest.mark.parametrize("task", [priced.be_refused, priced.be_refused_async])
def test_a_step_that_fails_counts_what_was_reserved_unless_its_one_call_was_refused(worked, one_dollar, task):
    worked(task, one_call=True)
    assert (state(), costs()) == (money(0, 0), [])
    worked(task, one_call=False)
    assert (state(), costs()) == (money(0.1, 0), list(money(0.1)))


def test_an_error_after_the_one_call_of_a_step_has_returned_is_not_its_own(one_dollar):
    spending = Spending("pay", None, "p", 0.1, True)
    with pytest.raises(priced.RefusedError), spending.reservation:
        spending.take("yes")
        raise priced.RefusedError
    assert state() == money(0.1, 0)


def test_a_result_that_cannot_be_kept_was_paid_all_the_same(worked, one_dollar):
    assert worked(priced.return_what_is_no_json).job.state == State.FAILED
    assert (state(), costs()) == (money(0.03, 0), list(money(0.03)))
    assert not CostEntry.objects.get().is_estimate


def test_a_rollback_takes_the_step_back_and_not_the_cost(worked, one_dollar, marks):
    worked(priced.pay_and_roll_back)
    assert not Step.objects.exists()
    assert (state(), costs()) == (money(0.03, 0), list(money(0.03)))


def test_inside_a_transaction_a_cost_is_noted_once(worked, one_dollar, marks):
    worked(priced.pay_in_a_transaction)
    assert Step.objects.get().usd == Decimal("0.03")
    assert (state(), costs()) == (money(0.03, 0), list(money(0.03)))


def test_async_steps_have_costs_too(worked, one_dollar):
    job = worked(priced.pay_async).job
    assert job.result == "yes"
    assert (state(), Step.objects.get().usd) == (money(0.04, 0), Decimal("0.04"))
    assert costs(step="pay", job_id=job.pk) == list(money(0.04))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost": -1}, "A cost must be an amount of US dollars"),
        ({"cost": "much"}, "A cost must be an amount of US dollars"),
        ({"reserve": 0.1}, "needs the budget: step(..., budget=...)"),
        ({"cost": 0.1, "budget_name": "unknown"}, "The budget 'unknown' has no cap"),
        ({"cost": 0.1, "budget_name": ""}, None),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_call(worked, marks, arguments, message):
    job = worked(priced.ask_for_the_impossible.using(max_attempts=1), **arguments).job
    if message is None:
        assert job.state == State.SUCCEEDED
    else:
        assert job.state == State.FAILED
        assert message in job.errors[-1]["message"]
        assert marks() == []


def test_a_jobs_own_budget_is_found_by_its_arguments_and_pays_for_all_its_steps(work, cap, marks):
    cap(1, "project:7")
    cap(0.03, "project:8")
    results = [priced.pay_for_a_project.enqueue(project, 3) for project in (7, 8)]
    work(threads=1)
    assert (results[0].job.state, results[0].job.result) == (State.SUCCEEDED, "project:7")
    assert (results[1].job.state, results[1].job.held_by) == (State.HELD, "budget:project:8")
    assert (state("project:7"), state("project:8")) == (money(0.06, 0), money(0.04, 0))
    assert CostEntry.objects.filter(budget="project:8").count() == 2


def test_a_call_of_a_task_can_have_another_budget(worked, cap, marks):
    cap(1, "other")
    assert worked(priced.pay_for_a_project.using(budget="other"), 7).job.result == "other"
    assert state("other") == money(0.02, 0)


def test_of_two_runs_that_pay_for_a_step_one_stores_its_cost(transactional_db):
    """The other run has lost its lease meanwhile: what it paid is spent, and it stores nothing with the job."""
    job = make_running(lease_epoch=2)
    paid = StepCost(Cost(0.1))
    assert save_step("default", str(job.pk), 2, "pay", "1", paid) == ("1", True)
    assert save_step("default", str(job.pk), 2, "pay", "2", paid) == ("1", False)
    with pytest.raises(LeaseLost):
        save_step("default", str(job.pk), 1, "pay", "3", paid)
    assert costs() == list(money(0.1))


def test_two_threads_of_a_job_that_race_for_a_step_store_its_cost_once(transactional_db):
    job, gate, outcomes = make_running(lease_epoch=1), threading.Barrier(2), []

    def pay():
        gate.wait()
        outcomes.append(save_step("default", str(job.pk), 1, "pay", "1", StepCost(Cost(0.1)))[1])
        connection.close()

    together(2, pay)
    assert sorted(outcomes) == [False, True]
    assert costs() == list(money(0.1))


def test_a_worker_killed_between_the_step_and_its_settlement_has_spent_the_true_cost(one_dollar):
    job = make_running()
    open_one = budget("p").reserve(0.4, step="pay")
    open_one.__enter__()
    save_step("default", str(job.pk), 1, "pay", "1", StepCost(Cost(0.1), "p", open_one.id))
    make_reservations_expire()
    (expired,) = expiry.expire(settle_seconds=0)
    assert (expired.usd, expired.is_known) == (Decimal("0.1"), True)
    assert state() == money(0.1, 0)
    assert costs() == list(money(0.1))


def test_a_settlement_after_an_expired_reservation_counted_the_true_cost_counts_it_once(one_dollar):
    job = make_running()
    with budget("p").reserve(0.4, step="pay") as reservation:
        save_step("default", str(job.pk), 1, "pay", "1", StepCost(Cost(0.1), "p", reservation.id))
        make_reservations_expire()
        expiry.expire(settle_seconds=0)
        reservation.settle_step(Cost(0.1), is_recorded=False)
    assert (state(), costs()) == (money(0.1, 0), list(money(0.1)))


def test_a_step_saved_behind_the_end_of_its_lease_corrects_the_estimate(one_dollar):
    job = make_running()
    with budget("p").reserve(0.4, step="pay") as reservation:
        make_reservations_expire()
        expiry.expire(settle_seconds=0)
        assert costs() == list(money(0.4))
        save_step("default", str(job.pk), 1, "pay", "1", StepCost(Cost(0.1), "p", reservation.id))
        reservation.settle_step(Cost(0.1), is_recorded=False)
    assert (state(), costs()) == (money(0.1, 0), list(money(0.1)))
    assert not CostEntry.objects.get().is_estimate


def test_a_step_of_a_task_that_is_called_directly_spends_too(cap):
    cap(0.05)
    result = type("Result", (), {"id": "1", "attempts": 1, "task": priced.pay_from_a_budget})()
    context = TaskContext(task_result=result)
    assert priced.pay_from_a_budget.call(context, 0.02, 0.03) == "0.030000"
    assert (state(), costs(step="pay")) == (money(0.02, 0), list(money(0.02)))
    with pytest.raises(BudgetExceededError):
        priced.pay_from_a_budget.call(context, 0.02, 0.04)
    assert not Reservation.objects.exists()


class CostsElsewhere:
    """In a schema that stands for another database; that of the jobs has no list of costs."""

    def db_for_read(self, model, **hints):
        return "costs" if model in (Budget, Reservation, CostEntry) else None

    db_for_write = db_for_read


@pytest.fixture
def costs_elsewhere(transactional_db, any_database, server, settings):
    settings.DATABASE_ROUTERS = [CostsElsewhere()]
    server.execute("CREATE SCHEMA costs")
    for table in ("pgonly_budget", "pgonly_reservation", "pgonly_cost"):
        server.execute(f"CREATE TABLE costs.{table} (LIKE public.{table} INCLUDING ALL)")
    options = {**connection.settings_dict["OPTIONS"], "options": "-c search_path=costs"}
    with alias("costs", OPTIONS=options), missing(server.execute, "pgonly_cost"):
        yield
    server.execute("DROP SCHEMA costs CASCADE")


@needs_search_path
def test_costs_in_another_database_than_the_jobs_are_noted_there(costs_elsewhere, cap, worked, marks):
    cap(1)
    with fake_limits():
        assert worked(priced.say_what_it_costs).job.state == State.SUCCEEDED
    assert costs() == []
    Job.objects.all().delete()
    for task in (priced.pay_from_a_budget, priced.pay_in_a_transaction, priced.say_what_it_costs):
        assert worked(task).job.state == State.SUCCEEDED
    assert state() == money(0.05, 0)
    assert costs() == list(money(0.02, 0.03, 0.005, 0.01, 0.02))
    assert list(Step.objects.order_by("pk").values_list("usd", flat=True)) == costs()


@needs_search_path
def test_a_worker_killed_before_or_after_a_step_in_another_database_has_spent_the_true_cost(
    costs_elsewhere, cap
):
    cap(1)
    spending = Spending("pay", 0.1, "p", 0.4, one_call=False)
    spending.reservation.__enter__()
    spending.take("1")
    spending.stored("default", is_in_transaction=False)
    make_reservations_expire()
    (expired,) = expiry.expire(settle_seconds=0)
    assert (expired.usd, expired.is_known) == (Decimal("0.1"), True)
    assert (state(), costs()) == (money(0.1, 0), list(money(0.1)))
