from __future__ import annotations

import pytest
from django.core.management import call_command

from pgonly_django import cron, task
from pgonly_django.compat import BaseTaskBackend, Task
from pgonly_django.scheduling import decorators
from pgonly_django.scheduling.settings import check_schedules, declared

RIGHT = {"task": "tests.jobs.add", "cron": "0 3 * * *", "timezone": "UTC", "args": [1]}


def report(project=1):
    return project


@pytest.fixture(autouse=True)
def only_those_of_the_test(monkeypatch):
    monkeypatch.setattr(decorators, "_declared", {})


def given(settings, **entries):
    settings.PGONLY = {"SCHEDULES": entries}


def test_an_entry_is_declared(settings):
    given(settings, nightly=RIGHT, often={"task": "tests.jobs.add", "every": 60, "args": [1]})
    found = declared("default")
    assert set(found) == {"nightly", "often"}
    assert found["often"].columns()["every_seconds"] == 60
    assert check_schedules() == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**RIGHT, "timezon": "UTC"}, "Did you mean 'timezone'"),
        ({**RIGHT, "cron": "61 * * * *"}, "Bad minute"),
        ({**RIGHT, "timezone": "Asia/Shangai"}, "Asia/Shanghai"),
        ({**RIGHT, "every": 60}, "not both"),
        ({"task": "tests.jobs.add"}, "either a cron line or an interval"),
        ({"cron": "0 3 * * *"}, 'lacks "task"'),
        ("0 3 * * *", "must be a dict"),
    ],
)
def test_a_wrong_entry_is_an_error_of_the_check_and_declares_nothing(settings, entry, said):
    given(settings, nightly=entry, sound=RIGHT)
    (error,) = check_schedules()
    assert error.id == "pgonly_django.E301"
    assert said in error.msg
    assert "PGONLY[\"SCHEDULES\"]['nightly']" in error.msg
    assert set(declared("default")) == {"sound"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [({**RIGHT, "task": "tests.jobs.gone"}, "tests.jobs.gone"), ({**RIGHT, "args": [1, 2, 3]}, "too many")],
)
def test_a_call_that_cannot_be_made_is_a_warning_of_the_check(settings, entry, said):
    given(settings, nightly=entry)
    (warning,) = check_schedules()
    assert warning.id == "pgonly_django.W301"
    assert said in warning.msg
    assert set(declared("default")) == {"nightly"}


def test_settings_win_over_a_decorator_and_none_switches_it_off(settings):
    cron("0 3 * * *", name="first")(task(report))
    cron("0 3 * * *", name="second")(task(report))
    given(settings, first={**RIGHT, "cron": "0 5 * * *"}, second=None)
    assert [(name, each.cron) for name, each in declared("default").items()] == [("first", "0 5 * * *")]


def test_a_schedule_belongs_to_the_database_of_its_tasks_backend(settings):
    cron("0 3 * * *", name="of code")(task(report))
    given(settings, nightly=RIGHT)
    assert set(declared("default")) == {"of code", "nightly"}
    assert declared("another") == {}


def test_a_task_of_another_backend_is_not_scheduled(settings):
    """Tests and development may run tasks at once; importing them must work all the same."""
    settings.TASKS = {
        "default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": []},
        "now": {"BACKEND": f"{BaseTaskBackend.__module__.rpartition('.')[0]}.immediate.ImmediateBackend"},
    }

    plain = task(report)
    immediate = Task(
        func=report, priority=0, queue_name="default", backend="now", takes_context=False, run_after=None
    )
    assert cron("0 3 * * *", name="immediate")(immediate) is immediate
    cron("0 3 * * *", name="ours")(plain)
    assert set(declared("default")) == {"ours"}


def test_the_check_is_part_of_manage_py_check(settings):
    from django.core.management.base import SystemCheckError

    given(settings, nightly={**RIGHT, "cron": "61 * * * *"})
    with pytest.raises(SystemCheckError, match=r"E301"):
        call_command("check")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"queue": "mial"}, "did you mean 'mail'"), ({"budget": "project:{nobody}"}, "no argument 'nobody'")],
)
def test_a_queue_or_a_budget_that_the_task_cannot_have_is_warned_about(settings, options, said):
    settings.TASKS = {"default": {**settings.TASKS["default"], "QUEUES": ["default", "mail"]}}
    given(settings, nightly={**RIGHT, **options})
    (warning,) = check_schedules()
    assert warning.id == "pgonly_django.W301"
    assert said in warning.msg
