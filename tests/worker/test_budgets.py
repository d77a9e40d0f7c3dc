"""What becomes of jobs whose budget is used up."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django import budget, enqueue_many
from pgonly_django.exceptions import BudgetError
from pgonly_django.limits import budget as budget_module
from pgonly_django.limits.duties import SettleBudgets
from pgonly_django.models import Budget, CostEntry, Job, Queue, State
from tests import jobs
from tests.jobs import spending
from tests.limits.rows import costs, end_period, money, no_connections, state
from tests.waiting import wait_for
from tests.worker import rounds


@pytest.fixture
def cap(transactional_db, monkeypatch):
    """Makes the budget with this cap."""
    monkeypatch.setattr(budget_module, "_again_at", {})
    monkeypatch.setattr(budget_module, "_fitted_at", {})

    def make(usd, **facts):
        return Budget.objects.create(name="p", usd=usd, **facts)

    return make


def settle_budgets():
    return rounds.run(SettleBudgets)


@pytest.mark.sample(2)
@pytest.mark.parametrize("task", spending.OVER, ids=lambda task: task.name)
def test_a_job_over_its_budget_is_held_whatever_it_makes_of_the_error(worked, cap, marks, task):
    cap(0.5)
    job = worked(task, 0.6).job
    assert (job.state, job.held_by, job.attempt, job.worker_id is None) == (State.HELD, "budget:p", 0, False)
    assert "Budget 'p': $0.60 does not fit." in job.errors[-1]["reason"]
    assert "of $0.50 is spent" in job.errors[-1]["reason"]
    assert (marks(), state()[1]) == ([], 0)


def test_a_held_atomic_job_has_paid_what_it_paid(worked, cap, marks):
    cap(0.5)
    worked(spending.pay_in_a_transaction, 0.6)
    assert (state(), costs()) == (money(0.1, 0), list(money(0.1)))
    assert marks() == []


def test_raise_and_resume_continues_all_held_jobs_and_no_step_is_paid_twice(work, cap, marks):
    cap(0.5)
    results = [spending.pay_for_steps.enqueue(4, 0.1) for _ in range(3)]
    work(threads=1)
    assert [result.job.state for result in results] == [State.SUCCEEDED, State.HELD, State.HELD]
    assert state() == money(0.5, 0)
    assert Budget.objects.raise_cap(1.2) == 2
    assert [result.job.state for result in results[1:]] == [State.READY] * 2
    work(threads=1)
    assert all(result.job.state == State.SUCCEEDED for result in results)
    assert sorted(marks()) == sorted(f"step {number}" for number in range(4) for _ in range(3))
    assert state() == money(1.2, 0)
    job = results[1].job
    assert (job.attempt, job.held_by) == (1, None)
    assert {(cost.task, cost.queue) for cost in CostEntry.objects.filter(job_id=job.pk)} == {
        ("tests.jobs.spending.pay_for_steps", "default")
    }


def test_a_cap_is_raised_for_all_or_none(cap):
    cap(5)
    Budget.objects.create(name="q", usd=1)
    with pytest.raises(BudgetError, match=r"The cap of budget 'p' is \$5\.00 already, not below \$3\.00"):
        Budget.objects.raise_cap(3)
    assert list(Budget.objects.order_by("name").values_list("usd", flat=True)) == [5, 1]


def test_a_resumed_job_without_room_is_held_again(work, cap):
    cap(0.5)
    result = spending.pay_once.enqueue(0.6)
    work(threads=1)
    assert Budget.objects.resume() == 1
    work(threads=1)
    assert (result.job.state, result.job.attempt) == (State.HELD, 0)
    assert settle_budgets() < rounds.SOON
    assert result.job.state == State.HELD


def test_the_next_period_resumes_what_the_last_one_held(work, cap):
    cap(0.5, per="day")
    results = [spending.pay_once.enqueue(0.3) for _ in range(3)]
    work(threads=1)
    assert [result.job.state for result in results] == [State.SUCCEEDED, State.HELD, State.HELD]
    settle_budgets()
    assert results[1].job.state == State.HELD
    end_period()
    Job.objects.update(attempted_at=timezone.now() - timedelta(days=400))
    settle_budgets()
    assert [result.job.state for result in results[1:]] == [State.READY] * 2
    work(threads=1)
    assert sorted(result.job.state for result in results) == [State.HELD, State.SUCCEEDED, State.SUCCEEDED]
    assert state() == money(0.3, 0)


def test_a_job_that_was_refused_before_the_cap_was_raised_and_is_held_behind_it_goes_on(work, cap):
    """Its end is written when "raise and resume" is over already."""
    cap(0.5)
    result = spending.pay_once.enqueue(0.6)
    work(threads=1)
    Budget.objects.edit(usd=2)
    assert result.job.state == State.HELD
    settle_budgets()
    work(threads=1)
    assert result.job.state == State.SUCCEEDED


def test_a_higher_cap_in_the_code_resumes_what_is_held(work, transactional_db):
    with budget("p", 0.5).reserve(0):
        pass
    result = spending.pay_once.enqueue(0.6)
    work(threads=1)
    with budget("p", 0.7).reserve(0):
        pass
    settle_budgets()
    work(threads=1)
    assert result.job.state == State.SUCCEEDED


@pytest.mark.parametrize("task", [spending.pay_and_say_so, spending.pay_async], ids=["sync", "async"])
def test_where_only_calls_under_way_are_in_the_way_a_job_waits_for_them(background_worker, cap, task):
    cap(0.5)
    with budget("p").reserve(0.4) as other:
        background_worker()
        result = task.enqueue(0.3)
        wait_for(lambda: result.job.state == State.RUNNING, what="the start")
        other.settle(0.1)
    assert result.wait(10).job.state == State.SUCCEEDED


def test_a_job_that_waits_for_calls_under_way_can_be_cancelled(background_worker, cap):
    cap(0.5)
    with budget("p").reserve(0.4) as other:
        background_worker()
        result = spending.pay_and_say_so.enqueue(0.3)
        wait_for(lambda: result.job.state == State.RUNNING, what="the start")
        result.cancel()
        wait_for(lambda: result.job.state == State.CANCELLED, what="the cancellation")
        other.settle(0.1)
    assert state() == money(0.1, 0)


def test_a_job_that_waits_for_calls_under_way_leaves_the_last_free_slot_to_others(work, cap):
    cap(0.5)
    with budget("p").reserve(0.4):
        waiting = [spending.pay_once.enqueue(0.3) for _ in range(6)]
        other = jobs.add.enqueue(1)
        work(threads=1)
    assert other.job.state == State.SUCCEEDED
    assert {result.job.state for result in waiting} == {State.SCHEDULED}
    assert other.job.started_at - other.job.enqueued_at < timedelta(seconds=5)
    again = sorted(result.job.run_at for result in waiting)
    assert timedelta(seconds=0.3) < again[-1] - again[0] < timedelta(seconds=5)


def test_a_crowd_that_waits_for_calls_under_way_holds_up_no_other_job(background_worker, cap):
    cap(0.5)
    with budget("p").reserve(0.4):
        enqueue_many([(spending.pay_once, (0.3,)) for _ in range(100)])
        other = jobs.add.enqueue(1)
        background_worker(threads=2)
        assert other.wait(10).job.state == State.SUCCEEDED


def test_jobs_that_come_again_take_a_tenth_of_the_slots_time_over_all_budgets(cap):
    pauses = [budget(f"p{number}").reserve(1)._again_in_seconds(0.05) for number in range(20)]
    assert pauses[-1] - pauses[0] == pytest.approx(19 * 0.05 * 10, abs=0.3)


def test_jobs_come_again_soon_where_the_calls_under_way_leave_room(work, cap):
    cap(0.5)
    spending.pay_once.enqueue(0.1)
    work(threads=1)
    pauses = [budget("p").reserve(1)._again_in_seconds() for _ in range(100)]
    assert pauses[0] < 1
    assert pauses[-1] < 5


def test_a_job_that_waits_for_calls_under_way_leaves_its_place_in_a_limit(work, cap):
    cap(0.5)
    Queue.objects.create(name="default", max_running=1)
    with budget("p").reserve(0.4):
        waiting, other = spending.pay_once.enqueue(0.3), jobs.add.enqueue(1)
        work(threads=4)
    assert (waiting.job.state, other.job.state) == (State.SCHEDULED, State.SUCCEEDED)
    assert other.job.started_at - other.job.enqueued_at < timedelta(seconds=5)


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("task", [spending.pay_for_six_at_once, spending.pay_for_six_in_threads])
def test_no_call_of_a_job_is_cut_off_because_another_one_does_not_fit(work, cap, marks, task, key):
    cap(1)
    result = task.using(concurrency_key=key).enqueue()
    work(threads=1)
    assert result.job.state == State.SUCCEEDED
    assert sorted(marks()) == [f"asked {number}" for number in range(6)]
    assert state() == money(0.06, 0)


def test_a_reservation_inside_another_one_does_not_wait_for_that(work, cap):
    cap(1)
    result = spending.pay_inside_a_reservation.enqueue()
    work(threads=1)
    assert result.job.errors[-1]["outcome"] == "snoozed"


def test_however_many_jobs_wait_each_comes_again_within_a_minute_and_the_next_ones_soon(cap):
    pauses = [budget("p").reserve(1)._again_in_seconds() for _ in range(2000)]
    assert pauses[0] == pytest.approx(5, abs=0.1)
    assert 30 < max(pauses) <= 60


def test_a_job_that_waited_too_long_for_calls_under_way_comes_again_by_itself(work, cap, monkeypatch):
    monkeypatch.setattr(budget_module, "WAIT_SECONDS", 0.1)
    cap(0.5)
    with budget("p").reserve(0.4) as other:
        result = spending.pay_once.enqueue(0.3)
        work(threads=2)
        other.settle(0.1)
    job = result.job
    assert (job.state, job.errors[-1]["outcome"], job.attempt) == (State.SCHEDULED, "snoozed", 0)
    assert "$0.40 is reserved" in job.errors[-1]["reason"]
    result.retry()
    work(threads=1)
    assert result.job.state == State.SUCCEEDED


def test_a_job_waits_for_the_database_and_loses_no_attempt(background_worker, cap):
    cap(1)
    background_worker()
    with no_connections():
        result = spending.pay_and_say_so.enqueue(0.1)
        wait_for(lambda: result.job.state == State.RUNNING, what="the start")
    assert result.wait(20).job.state == State.SUCCEEDED
    assert result.attempts == 1
    assert state() == money(0.1, 0)
