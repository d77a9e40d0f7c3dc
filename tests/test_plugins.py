"""To take a room out of the list takes its behaviour out, and the worker still runs jobs."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from django.utils import timezone

from pgonly_django import plugins
from pgonly_django.models import Budget, CacheEntry, CostEntry, Session, State
from pgonly_django.models.checkpoint import Step
from pgonly_django.worker.loop import FIRST_SCHEDULES_SECONDS
from tests.jobs import add, priced
from tests.limits.rows import money, state
from tests.scheduling.rows import make, ticks
from tests.worker.conftest import background_worker, work, worked
from tests.worker.rounds import a_round

__all__ = ["background_worker", "work", "worked"]

PAST = "2001-01-01T00:00Z"


@pytest.fixture
def without(monkeypatch):
    """Takes a room out of the list: `without("limits")`."""

    def take_out(room):
        left = tuple(path for path in plugins.PLUGINS if path.split(".")[1] != room)
        assert len(left) == len(plugins.PLUGINS) - 1
        monkeypatch.setattr(plugins, "PLUGINS", left)
        plugins.plugins.cache_clear()

    yield take_out
    monkeypatch.undo()
    plugins.plugins.cache_clear()


def test_without_limits_a_cost_is_stored_with_its_step_and_nowhere_else(without, worked, marks):
    without("limits")
    assert worked(priced.say_what_it_costs).job.result == ["yes", "no", "yes"]
    costs = Step.objects.order_by("id").values_list("usd", "tokens_in", "tokens_out")
    assert list(costs) == [(Decimal("0.005"), None, None), (Decimal("0.01"), 900, 7), (Decimal("0.02"), 5, 6)]
    assert not CostEntry.objects.exists()


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (
            priced.ask_for_the_impossible,
            {"cost": 0.1, "budget_name": "p"},
            "PLUGINS of pgonly_django.plugins",
        ),
        (priced.pay_from_a_budget, {}, "PLUGINS of pgonly_django.plugins"),
        (priced.pay_for_a_project, {"project_id": 7}, "PLUGINS of pgonly_django.plugins"),
        (priced.ask_for_the_impossible, {"reserve": 0.1}, "needs the budget: step(..., budget=...)"),
    ],
)
def test_without_limits_no_step_is_called_that_a_budget_has_to_pay(
    without, worked, marks, task, arguments, message
):
    without("limits")
    Budget.objects.create(name="p", usd=1)
    job = worked(task.using(max_attempts=1), **arguments).job
    assert (job.state, marks(), state()) == (State.FAILED, [], money(0, 0))
    assert message in job.errors[-1]["message"]


@pytest.mark.parametrize(
    ("room", "model"), [("cache", CacheEntry), ("sessions", Session), ("limits", CostEntry)]
)
def test_without_a_room_its_rows_are_not_pruned_and_those_of_others_are(
    without, room, model, transactional_db
):
    def over():
        CacheEntry.objects.create(key="a:old", codec=0, expires_at=PAST, prune_minute=0)
        Session.objects.create(key_hash="00" * 32, data={}, expires_at=PAST, expires_hour=0)
        CostEntry.objects.create(usd=1, at=PAST)

    over()
    a_round()
    rooms = (CacheEntry, Session, CostEntry)
    assert not any(each.objects.exists() for each in rooms)
    without(room)
    over()
    a_round()
    assert [each for each in rooms if each.objects.exists()] == [model]


def test_without_schedules_none_ticks_and_jobs_run(without, background_worker):
    without("scheduling")
    schedule = make(next_at=timezone.now())
    worker = background_worker()
    assert worker.housekeeper.has_looked.wait(30)
    assert add.enqueue(1, b=2).wait(30).return_value == 3
    assert ticks(schedule) == []


def test_without_any_room_the_worker_runs_jobs(without, work):
    for room in ("cache", "sessions", "limits", "scheduling"):
        without(room)
    result, began = add.enqueue(1, b=2), time.monotonic()
    work()
    assert result.job.state == State.SUCCEEDED
    assert time.monotonic() - began < FIRST_SCHEDULES_SECONDS, "it waited for a look at schedules"
