"""To take a room out of the list takes its behaviour out, and the worker still runs jobs."""

from __future__ import annotations

from decimal import Decimal

import pytest

from pgonly_django import plugins
from pgonly_django.models import Budget, CostEntry, State
from pgonly_django.models.checkpoint import Step
from tests.jobs import priced
from tests.limits.rows import money, state
from tests.worker.conftest import work, worked

__all__ = ["work", "worked"]


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
