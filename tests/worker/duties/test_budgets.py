"""What a worker does for budgets now and then."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from pgonly_django.database import wake_urls
from pgonly_django.limits import expiry
from pgonly_django.limits.duties import PruneCosts, SettleBudgets
from pgonly_django.models import Budget, CostEntry, Job, Reservation, State
from tests.http_receiver import receiver
from tests.limits.crowd import together
from tests.limits.rows import money, state
from tests.queue.rows import HOUR, ago, make
from tests.worker import rounds

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run():
    """Runs the duty, however young the server is. Returns in how many seconds it comes again."""
    return lambda: rounds.run(SettleBudgets, settle_seconds=0)


def reserve(count, budget="p", **facts):
    Reservation.objects.bulk_create(
        Reservation(**{"id": uuid4(), "budget": budget, "usd": "0.01", "expires_at": ago(HOUR), **facts})
        for _ in range(count)
    )


def test_all_that_dead_processes_have_reserved_is_spent_in_batches(run, caplog):
    Budget.objects.create(name="p", usd=100, reserved="25.01")
    Budget.objects.create(name="q", usd=100, reserved="1")
    job = make()
    reserve(2499)
    reserve(1, job_id=job.pk, task=job.task)
    reserve(1, expires_at=timezone.now() + HOUR)
    reserve(100, budget="q")
    assert run() < rounds.SOON
    assert (state("p"), state("q")) == (money(25, 0.01), money(1, 0))
    assert CostEntry.objects.filter(is_estimate=True).count() == 2600
    assert f"for tests.jobs.add {job.pk} by a process that has ended" in caplog.text
    assert run() < rounds.SOON, "a call is under way"
    assert state("p") == money(25, 0.01)


def test_a_budget_whose_row_is_locked_keeps_no_other_waiting(run, other):
    for name in ("a", "b"):
        Budget.objects.create(name=name, usd=1, reserved="0.01")
        reserve(1, budget=name)
    reserve(1, budget="deleted")
    with other.transaction():
        other.execute("SELECT FROM pgonly_budget WHERE name = 'a' FOR UPDATE")
        assert run() < rounds.SOON
        assert (state("a"), state("b")) == (money(0, 0.01), money(0.01, 0))
        assert CostEntry.objects.filter(budget="deleted").exists()
    run()
    assert state("a") == money(0.01, 0)


def test_with_nothing_to_do_it_comes_seldom(run):
    Budget.objects.create(name="p", usd=1)
    assert run() >= 0.8 * SettleBudgets.interval == 240


def test_while_a_budget_holds_jobs_it_comes_more_often(run):
    Budget.objects.create(name="p", usd=1, spent=1)
    for name in ("budget:p", "budget:gone", "a person"):
        make(state=State.HELD, held_by=name)
    assert run() < rounds.SOON
    assert Job.objects.held().count() == 3


def test_only_jobs_that_a_budget_held_before_it_had_room_go_on(run):
    now = timezone.now()
    Budget.objects.create(name="p", usd=1, resumed_at=now - HOUR)
    Budget.objects.create(name="full", usd=1, spent=1, resumed_at=now)
    before = make(state=State.HELD, held_by="budget:p", attempted_at=now - 2 * HOUR)
    others = [
        make(state=State.HELD, held_by="budget:p", attempted_at=now - HOUR / 2),
        make(state=State.HELD, held_by="budget:full", attempted_at=now - 2 * HOUR),
        make(state=State.HELD, held_by="a person", attempted_at=now - 2 * HOUR),
    ]
    run()
    assert Job.objects.get(pk=before.pk).state == State.READY
    assert Job.objects.held().count() == len(others)


def test_a_budget_without_a_period_that_nobody_raised_resumes_nothing(run):
    Budget.objects.create(name="p", usd=1)
    make(state=State.HELD, held_by="budget:p", attempted_at=ago(HOUR))
    run()
    assert Job.objects.get().state == State.HELD


def test_two_workers_count_a_reservation_once(run):
    Budget.objects.create(name="p", usd=100, reserved="3")
    reserve(300)
    together(4, count_in_its_own_connection)
    run()
    assert state() == money(3, 0)
    assert CostEntry.objects.count() == 300


def count_in_its_own_connection():
    try:
        expiry.expire(settle_seconds=0)
    finally:
        connection.close()


def test_a_wrong_setting_keeps_nothing_from_being_settled(settings, run):
    settings.PGONLY = {**settings.PGONLY, "BUDGETS": {"p": {"usd": -1}}}
    Budget.objects.create(name="q", usd=1, reserved="0.01")
    reserve(1, "q")
    run()
    assert state("q") == money(0.01, 0)


def test_costs_are_kept_for_ninety_days():
    for days in (89, 91, 400):
        CostEntry.objects.create(usd=1, at=timezone.now() - timedelta(days=days))
    rounds.run(PruneCosts)
    assert CostEntry.objects.count() == 1


@pytest.mark.parametrize(
    ("per", "zone", "at_most"), [("hour", "UTC", 1), ("day", "Asia/Shanghai", 25), ("month", "UTC", 24 * 31)]
)
def test_held_jobs_can_go_on_when_the_first_of_their_budgets_begins_a_new_period(per, zone, at_most):
    Budget.objects.create(name="soon", usd=1, per=per, timezone=zone)
    Budget.objects.create(name="late", usd=1, per="year")
    Budget.objects.create(name="ever", usd=1)
    seconds = expiry.next_period_in_seconds(["soon", "late", "ever", "gone"])
    assert 0 < seconds <= at_most * 3600
    with connection.cursor() as cursor:
        sql = "SELECT date_trunc(%s, clock_timestamp() + %s * interval '1 second' + interval '1 minute', %s)"
        cursor.execute(sql, [per, seconds, zone])
        (begun,) = cursor.fetchone()
    assert abs((begun - timezone.now()).total_seconds() - seconds) < 60
    assert expiry.next_period_in_seconds(["ever", "gone"]) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda budgets: budgets.edit(usd=2),
        lambda budgets: budgets.start_over(),
        lambda budgets: budgets.raise_cap(2),
        lambda budgets: (budgets.update(edited_at=timezone.now(), declared={"usd": "3"}), budgets.reset()),
    ],
    ids=["edit", "start_over", "raise_cap", "reset"],
)
def test_a_person_who_gives_a_budget_room_wakes_workers_that_sleep(settings, change):
    Budget.objects.create(name="p", usd=1, spent=1)
    with receiver() as sleeping:
        settings.PGONLY = {**settings.PGONLY, "WAKE_URLS": [sleeping.url]}
        with transaction.atomic():
            change(Budget.objects.filter(name="p"))
            wake_urls.flush(30)
            assert sleeping.asked == []
        wake_urls.flush(30)
        assert sleeping.asked
