from __future__ import annotations

import inspect
from datetime import timedelta
from types import FunctionType

import pytest

from pgonly_django import cron, every, task
from pgonly_django.compat import InvalidTask
from pgonly_django.exceptions import OptionError, WrongArgumentsError
from pgonly_django.models.schedule import SHORTEST_SECONDS, CatchUp, Overlap
from pgonly_django.scheduling import declaration, decorators
from pgonly_django.scheduling.decorators import declarations


@pytest.fixture(autouse=True)
def only_those_of_the_test(monkeypatch):
    monkeypatch.setattr(decorators, "_declared", {})


def report(project=1):
    return project


def other():
    return 1


def made(function=report):
    """A task whose function is another object in every test, as where its module is imported again."""
    return task(FunctionType(function.__code__, globals(), function.__name__, function.__defaults__))


def test_the_decorator_returns_the_same_task():
    made_task = made()
    assert cron("0 3 * * *")(made_task) is made_task
    assert every(timedelta(minutes=5), name="often")(made_task) is made_task
    assert set(declarations()) == {made_task.module_path, "often"}


def test_what_is_declared_has_its_defaults(settings):
    settings.TIME_ZONE = "Europe/Berlin"
    made_task = made()
    cron("0 3 * * *")(made_task)
    _, declared = declarations()[made_task.module_path]
    assert declared.columns() == {
        "task": made_task.module_path, "cron": "0 3 * * *", "every_seconds": None, "timezone": "Europe/Berlin",
        "args": [], "kwargs": {}, "queue": None, "priority": None, "catch_up": "latest", "overlap": "skip",
        "budget": None, "metadata": None,
    }  # fmt: skip


def test_all_options_reach_the_declaration():
    made_task = made()
    cron(
        "0 3 * * *", timezone="Asia/Shanghai", name="night", args=(7,), queue="ai", priority=3,
        catch_up="none", overlap="replace", budget="nightly", metadata={"team": "ai"},
    )(made_task)  # fmt: skip
    _, declared = declarations()["night"]
    assert declared.columns() == {
        "task": made_task.module_path, "cron": "0 3 * * *", "every_seconds": None, "timezone": "Asia/Shanghai",
        "args": [7], "kwargs": {}, "queue": "ai", "priority": 3, "catch_up": "none", "overlap": "replace",
        "budget": "nightly", "metadata": {"team": "ai"},
    }  # fmt: skip


def test_catch_up_all_lets_its_runs_overlap():
    made_task = made()
    every(60, catch_up="all")(made_task)
    assert declarations()[made_task.module_path][1].columns()["overlap"] == "allow"


def test_a_second_schedule_of_a_task_needs_a_name_of_its_own():
    made_task = made()
    cron("0 3 * * *")(made_task)
    with pytest.raises(InvalidTask, match="its own name"):
        cron("0 9 * * *")(made_task)
    cron("0 9 * * *", name="morning")(made_task)
    assert len(declarations()) == 2


def test_two_tasks_cannot_have_one_schedules_name():
    cron("0 3 * * *", name="night")(made())
    with pytest.raises(InvalidTask, match="report has a schedule named 'night' already"):
        cron("0 3 * * *", name="night")(made(other))


def test_a_module_that_is_imported_again_declares_anew():
    cron("0 3 * * *")(made())
    cron("0 4 * * *")(made())
    assert [each.cron for _, each in declarations().values()] == ["0 4 * * *"]


@pytest.mark.parametrize("decorator", [cron("0 3 * * *"), every(60)])
def test_a_plain_function_is_refused_with_the_remedy(decorator):
    with pytest.raises(InvalidTask, match=r"other.*Write @task below it"):
        decorator(other)


@pytest.mark.parametrize("decorator", [cron, every])
@pytest.mark.parametrize("below", [made, lambda: other])
def test_a_decorator_without_its_time_is_refused_where_it_stands(decorator, below):
    with pytest.raises(InvalidTask, match=rf"@{decorator.__name__} needs to know when: write @"):
        decorator(below())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"queue": "rport"}, "did you mean 'report'"), ({"budget": "project:{projct}"}, "no argument 'projct'")],
)
def test_a_queue_or_a_budget_that_the_task_cannot_have_is_refused_at_its_place(settings, options, said):
    settings.TASKS = {"default": {**settings.TASKS["default"], "QUEUES": ["default", "report"]}}
    with pytest.raises(InvalidTask, match=f"@cron report: .*{said}"):
        cron("0 3 * * *", **options)(made())
    assert declarations() == {}


@pytest.mark.parametrize(
    ("decorate", "said"),
    [
        (lambda: cron("61 * * * *"), "Bad minute"),
        (lambda: cron(5), "must be text"),
        (lambda: cron("0 3 * * *", timezone="Asia/Shangai"), "Asia/Shanghai"),
        (lambda: cron("0 3 * * *", timezone=8), "Europe/Berlin"),
        (lambda: cron("0 3 * * *", catch_up="each"), '"latest", "all", "none"'),
        (lambda: cron("0 3 * * *", overlap="skip", catch_up="all"), 'Write overlap="allow"'),
        (lambda: cron("0 3 * * *", overlap="no"), '"skip", "allow", "replace"'),
        (lambda: cron("0 3 * * *", args="abc"), "args must be a list"),
        (lambda: cron("0 3 * * *", args=[object()]), "JSON"),
        (lambda: cron("0 3 * * *", kwargs={1: 2}), "kwargs must be a dict"),
        (lambda: cron("0 3 * * *", name=""), "name must be text"),
        (lambda: cron("0 3 * * *", name="x" * 256), "255"),
        (lambda: cron("0 3 * * *", queue=""), "queue must be"),
        (lambda: cron("0 3 * * *", priority=101), "-100 to 100"),
        (lambda: cron("0 3 * * *", budget=""), "budget must be text"),
        (lambda: every(0.05), "from 0.1 s"),
        (lambda: every(timedelta(days=-1)), "from 0.1 s"),
        (lambda: every("5 minutes"), "timedelta or seconds"),
        (lambda: every(True), "timedelta or seconds"),
        (lambda: every(float("nan")), "timedelta or seconds"),
        (lambda: every(timedelta(days=40_000)), "36,500 days"),
    ],
)
def test_a_value_that_cannot_be_is_refused_at_its_place(decorate, said):
    with pytest.raises(OptionError, match="report") as raised:
        decorate()(made())
    assert said in str(raised.value)
    assert declarations() == {}


def test_arguments_that_do_not_fit_the_task_are_refused():
    with pytest.raises(WrongArgumentsError, match="colour"):
        cron("0 3 * * *", kwargs={"colour": "red"})(made())


def test_both_decorators_take_the_same_options():
    of_cron, of_every = (set(inspect.signature(each).parameters) for each in (cron, every))
    assert of_cron ^ of_every == {"line", "interval", "timezone"}


def test_the_words_are_those_of_the_columns():
    assert tuple(CatchUp.values) == declaration.CATCH_UP
    assert tuple(Overlap.values) == declaration.OVERLAP
    assert declaration.SHORTEST_SECONDS == SHORTEST_SECONDS
