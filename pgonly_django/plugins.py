"""What the rooms plug into the worker and the job context, which import none of them.

PLUGINS names the rooms that do so. Without its line there the behaviour of a room is gone, and the worker runs jobs.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

from django.utils.module_loading import import_string

from pgonly_django.amounts import Amount, Cost
from pgonly_django.duties import Duty
from pgonly_django.exceptions import BudgetError

PLUGINS = (
    "pgonly_django.cache.plugin.CachePlugin",
    "pgonly_django.sessions.plugin.SessionsPlugin",
    "pgonly_django.limits.plugin.LimitsPlugin",
    "pgonly_django.scheduling.plugin.SchedulingPlugin",
)


class PayingBudget(Protocol):
    """The part of a budget (limits/budget.py) that jobs use."""

    @property
    def name(self) -> str: ...

    def reserve(self, usd: Amount, *, step: str = "", one_call: bool = False) -> Any: ...


class Plugin:
    """What a room plugs in, from its `plugin.py`. A room overrides what it has."""

    duties: tuple[type[Duty], ...] = ()  # what the housekeeper of each worker does for the room
    # Whether it pays for the steps of jobs: it has budget() and note_cost(). Only one room does.
    pays = False

    def budget(self, of: PayingBudget | str) -> PayingBudget:
        """Returns a budget, also by its name. Raises BudgetError."""
        name = of if isinstance(of, str) else of.name
        raise BudgetError(
            f"Budget {name!r} needs the plugin of limits, which PLUGINS of {__name__} does not name."
        )

    def note_cost(self, alias: str, step: str, cost: Cost, reservation: Any) -> bool:  # noqa: ARG002 - for the room
        """Notes what the call of a step has cost. Returns whether that is left to the statement that stores the step,
        since the costs are in its database, `alias`."""
        return False

    def end_process(self) -> None:
        """Called when the process of a worker ends, whatever its threads still do. It has a second."""


@cache
def plugins() -> tuple[Plugin, ...]:
    """Returns what the rooms plug in. They are imported at the first call."""
    return tuple(import_string(path)() for path in PLUGINS)


def payer() -> Plugin:
    """Returns the plugin that pays for steps. Without one a cost is stored with its step only, and no budget pays."""
    return next((plugin for plugin in plugins() if plugin.pays), Plugin())
