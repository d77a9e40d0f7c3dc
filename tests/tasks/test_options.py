from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import get_type_hints

import pytest
from django.core.exceptions import ImproperlyConfigured

from pgonly_django import Backoff, task
from pgonly_django.compat import InvalidTask
from pgonly_django.exceptions import OptionError
from pgonly_django.tasks.options import (
    OPTION_NAMES,
    CallOptions,
    JobOptions,
    TaskOptions,
    restored,
    storable,
)
from pgonly_django.tasks.settings import TasksEntry
from pgonly_django.tasks.task import PostgresTask
from tests.tasks.calls import add, linear

MINUTE = timedelta(minutes=1)


def defaults(**options) -> TasksEntry:
    entry = TasksEntry("default", {"OPTIONS": options})
    if entry.problems:
        raise ImproperlyConfigured(*entry.problems)
    return entry


def test_editors_complete_the_options_that_exist_with_their_types():
    of_task, of_call = get_type_hints(JobOptions), get_type_hints(CallOptions)
    fields_of_task = get_type_hints(PostgresTask)
    assert of_call == get_type_hints(TaskOptions)
    assert of_task == {name: fields_of_task[name] for name in OPTION_NAMES}
    for function, options in ((task, "JobOptions"), (PostgresTask.using, "CallOptions")):
        assert inspect.signature(function).parameters["options"].annotation == f"Unpack[{options}]"


def test_without_any_setting_the_built_in_values_hold():
    options = defaults().resolve("default")
    assert options == TaskOptions()
    assert (options.max_attempts, options.max_runtime, options.atomic) == (8, None, False)
    assert options.retention == timedelta(days=7)


def test_each_layer_wins_over_the_one_before():
    layers = defaults(max_attempts=2, atomic=True, max_runtime=MINUTE, queues={"slow": {"max_attempts": 3}})
    assert layers.resolve("quick").max_attempts == 2
    assert layers.resolve("slow").max_attempts == 3
    assert layers.resolve("slow", {"max_attempts": 5}).max_attempts == 5
    assert layers.resolve("slow", {"max_attempts": 5}, {"max_attempts": 6}).max_attempts == 6
    assert layers.resolve("slow", {"max_attempts": 5}).atomic is True


def test_none_is_a_value_that_takes_a_limit_away():
    layers = defaults(max_runtime=MINUTE, retention=MINUTE)
    options = layers.resolve("default", {"max_runtime": None, "retention": None})
    assert (options.max_runtime, options.retention) == (None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", 1001),
        ("max_attempts", True),
        ("max_attempts", 1.5),
        ("backoff", 3),
        ("max_runtime", timedelta(0)),
        ("max_runtime", 60),
        ("atomic", 1),
        ("retention", timedelta(seconds=-1)),
        ("retention", 7),
    ],
)
def test_a_wrong_value_is_named_wherever_it_is_set(name, value):
    got = f"{name} must be .*, got {re.escape(repr(value))}"
    with pytest.raises(ImproperlyConfigured, match=rf'TASKS\[.default.\]\["OPTIONS"\]: {got}'):
        defaults(**{name: value})
    with pytest.raises(ImproperlyConfigured, match=rf'"queues".*slow.*: {name} must be'):
        defaults(queues={"slow": {name: value}})
    with pytest.raises(InvalidTask, match=f"linear: {name} must be"):
        task(**{name: value})(linear)
    with pytest.raises(OptionError, match=rf"add.using\(\): {name} must be"):
        add.using(**{name: value})


def test_options_that_exclude_each_other_are_named_wherever_they_are_set():
    says = "debounce changes the job while it is waiting"
    with pytest.raises(ImproperlyConfigured, match=rf'TASKS\[.default.\]\["OPTIONS"\]: {says}'):
        defaults(debounce=MINUTE, unique_while="retained")
    with pytest.raises(ImproperlyConfigured, match=rf'"queues".*slow.*: {says}'):
        defaults(debounce=MINUTE, queues={"slow": {"unique_while": "retained"}})


def test_an_unknown_option_names_the_nearest_known_one():
    with pytest.raises(
        ImproperlyConfigured, match=r"max_atempts is not a setting\. Did you mean 'max_attempts'"
    ):
        defaults(max_atempts=3)
    with pytest.raises(InvalidTask, match="Did you mean 'retention'"):
        task(retentoin=None)(linear)
    with pytest.raises(OptionError, match="Did you mean 'atomic'"):
        add.using(atomc=True)


@pytest.mark.parametrize(
    ("typed", "meant"), [("DATABASE", "database"), ("QUEUES", "queues"), ("Atomic", "atomic")]
)
def test_an_option_in_another_case_is_told_from_an_unknown_one(typed, meant):
    with pytest.raises(ImproperlyConfigured, match=f"{typed} is not a setting. Did you mean '{meant}'"):
        defaults(**{typed: 1})


def test_what_is_known_includes_what_stands_beside_our_options():
    with pytest.raises(ImproperlyConfigured, match=r"Known are: .*database.*queues"):
        defaults(x=1)
    with pytest.raises(InvalidTask, match="Did you mean 'queue_name'"):
        task(queue_nam="ai")(linear)
    with pytest.raises(InvalidTask, match=r"Known are: .*backend.*priority, queue_name.*takes_context"):
        task(x=1)(linear)
    with pytest.raises(OptionError, match="Did you mean 'run_after'"):
        add.using(run_afer=MINUTE)


@pytest.mark.parametrize(
    ("queues", "says"),
    [
        (
            ["ai"],
            r'\["queues"\] must be a dict of options by queue name, got \[.ai.\]. The names .* in "QUEUES"',
        ),
        ({"ai": 8}, r'\["queues"\]\[.ai.\] must be a dict of options, got 8'),
    ],
)
def test_queues_of_another_shape_are_named(queues, says):
    with pytest.raises(ImproperlyConfigured, match=says):
        defaults(queues=queues)


@pytest.mark.parametrize(
    "overrides",
    [
        {"atomic": True},
        {"backoff": Backoff(base=timedelta(seconds=1.5), cap=timedelta(hours=2))},
        {"backoff": linear, "atomic": False},
    ],
)
def test_what_one_call_overrides_comes_back_in_the_worker(overrides):
    assert restored(storable(overrides)) == overrides


def test_overrides_with_a_column_of_their_own_are_not_stored_twice():
    assert storable({"max_attempts": 3, "max_runtime": MINUTE, "retention": None}) is None
    assert restored(None) == {}


@dataclass
class Nameless:
    def __call__(self, attempt, error):
        return 1


@pytest.mark.parametrize("backoff", [lambda attempt, error: 1, Nameless()])
def test_a_backoff_that_no_worker_could_find_is_refused_when_enqueued(backoff):
    with pytest.raises(OptionError, match="module level"):
        storable({"backoff": backoff})


def test_the_default_attempts_outlive_an_outage_of_a_quarter_of_an_hour(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda shortest, longest: shortest)
    options = TaskOptions()
    waits = [options.backoff(attempt, ValueError()) for attempt in range(1, options.max_attempts)]
    assert sum(waits, timedelta()) > timedelta(minutes=15)
