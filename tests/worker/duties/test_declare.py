"""A worker says again what its settings declare."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django.database import notify
from pgonly_django.limits.duties import DeclareBudgets
from pgonly_django.models import Budget, Queue, declared
from pgonly_django.models.declared import STALE_AFTER, STARTED_AT
from pgonly_django.tasks.duties import DeclareQueues
from tests.worker.rounds import a_round

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(settings):
    def declare(**declared):
        settings.PGONLY = {**settings.PGONLY, **declared}
        a_round("default", DeclareQueues, DeclareBudgets)

    return declare


def test_queues_and_budgets_are_declared_before_they_are_used(run):
    run(BUDGETS={"p": {"usd": 5, "per": "month"}, "q*": {"usd": 1}}, QUEUES={"ai": {"max_running": 8}})
    assert Queue.objects.get(name="ai").max_running == 8
    assert list(Budget.objects.values_list("name", "usd", "per")) == [("p", 5, "month")]


@pytest.mark.parametrize(
    ("age", "limit"), [(timedelta(0), 1), (STALE_AFTER + timedelta(minutes=1), 8)], ids=["alive", "gone"]
)
def test_what_a_newer_process_has_declared_stays_as_long_as_that_confirms_it(run, age, limit):
    facts = {"declared_at": timezone.now() - age, "declarer_started_at": STARTED_AT + timedelta(seconds=1)}
    Queue.objects.create(name="ai", max_running=1, declared={"max_running": 1}, **facts)
    run(QUEUES={"ai": {"max_running": 8}})
    assert Queue.objects.get(name="ai").max_running == limit


def test_it_confirms_what_the_rows_say(run):
    for _ in range(2):
        run(QUEUES={"ai": {"max_running": 8}})
        (confirmed,) = Queue.objects.filter(name="ai").values_list("declared_at", flat=True)
        assert confirmed > timezone.now() - timedelta(minutes=1)
        Queue.objects.update(declared_at=timezone.now() - STALE_AFTER / 2)


def test_a_clock_that_is_ahead_makes_no_process_newer_than_those_to_come(run, monkeypatch):
    monkeypatch.setattr(declared, "STARTED_AT", STARTED_AT + timedelta(hours=1))
    run(QUEUES={"ai": {"max_running": 8}})
    run(QUEUES={"ai": {"max_running": 8}})
    (started_at,) = Queue.objects.filter(name="ai").values_list("declarer_started_at", flat=True)
    assert started_at < timezone.now() + timedelta(minutes=1)


def test_rows_are_made_in_the_order_of_their_names():
    names = [f"queue {n:02}" for n in range(20)]
    with CaptureQueriesContext(connection) as asked:
        Queue.objects.declare({name: {} for name in reversed(names)})
    (insert,) = [each["sql"] for each in asked if each["sql"].startswith("INSERT")]
    places = [insert.index(f"'{name}'") for name in names]
    assert places == sorted(places), "in two orders two processes would deadlock"


def test_workers_hear_of_limits_that_have_changed(run, other):
    other.execute(f"LISTEN {notify.CHANNEL}")
    run(QUEUES={"ai": {"max_running": 8}})
    assert list(other.notifies(timeout=10, stop_after=1))


@pytest.mark.parametrize(("wrong", "right"), [("BUDGETS", Queue), ("QUEUES", Budget)])
def test_a_wrong_setting_keeps_nothing_else_from_being_declared(run, caplog, wrong, right):
    declared = {"BUDGETS": {"p": {"usd": 5}}, "QUEUES": {"p": {"max_running": 8}}}
    run(**{**declared, wrong: {"p": 5}})
    assert right.objects.filter(name="p").exists()
    assert f"Declaring {wrong.lower()} failed" in caplog.text


@pytest.mark.slow
def test_a_row_that_somebody_holds_is_left_for_the_next_time(run, other, caplog):
    run(BUDGETS={"p": {"usd": 5}})
    with other.transaction():
        other.execute("SELECT FROM pgonly_budget FOR UPDATE")
        run(BUDGETS={"p": {"usd": 6}})
    assert "Declaring budgets failed, trying again later" in caplog.text
    run()
    assert Budget.objects.get().usd == 6
