from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.utils import timezone

from pgonly_django import cron, task
from pgonly_django.compat import BaseTaskBackend, Task
from pgonly_django.models import Schedule
from pgonly_django.scheduling import decorators
from pgonly_django.scheduling import settings as declare_module
from pgonly_django.scheduling.declaration import Declaration
from pgonly_django.scheduling.settings import check_schedules, declare, declared, needs_confirming
from tests.queue.rows import LEASE, make_worker, while_locked
from tests.scheduling.rows import DAY, HOUR, fresh, jobs, look, make, worker_id

pytestmark = pytest.mark.django_db(transaction=True)

NIGHTLY = {"task": "tests.jobs.add", "cron": "0 3 * * *", "timezone": "UTC", "args": [1]}
OFTEN = {"task": "tests.jobs.add", "every": 3600, "args": [2]}


def report(project=1):
    return project


@pytest.fixture(autouse=True)
def only_those_of_the_test(monkeypatch):
    monkeypatch.setattr(decorators, "_declared", {})


def given(settings, **entries):
    settings.PGONLY = {"SCHEDULES": entries}


def test_an_entry_is_declared(settings):
    given(settings, nightly=NIGHTLY, often=OFTEN)
    found = declared("default")
    assert set(found) == {"nightly", "often"}
    assert found["often"].columns()["every_seconds"] == 3600
    assert check_schedules() == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**NIGHTLY, "timezon": "UTC"}, "Did you mean 'timezone'"),
        ({**NIGHTLY, "cron": "61 * * * *"}, "Bad minute"),
        ({**NIGHTLY, "timezone": "Asia/Shangai"}, "Asia/Shanghai"),
        ({**NIGHTLY, "every": 60}, "not both"),
        ({"task": "tests.jobs.add"}, "either a cron line or an interval"),
        ({"cron": "0 3 * * *"}, 'lacks "task"'),
        ("0 3 * * *", "must be a dict"),
    ],
)
def test_a_wrong_entry_is_an_error_of_the_check_and_declares_nothing(settings, entry, said):
    given(settings, nightly=entry, sound=NIGHTLY)
    (error,) = check_schedules()
    assert error.id == "pgonly_django.E301"
    assert said in error.msg
    assert "PGONLY[\"SCHEDULES\"]['nightly']" in error.msg
    assert set(declared("default")) == {"sound"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**NIGHTLY, "task": "tests.jobs.gone"}, "tests.jobs.gone"),
        ({**NIGHTLY, "args": [1, 2, 3]}, "too many"),
    ],
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
    given(settings, first={**NIGHTLY, "cron": "0 5 * * *"}, second=None)
    assert [(name, each.cron) for name, each in declared("default").items()] == [("first", "0 5 * * *")]


def test_a_schedule_belongs_to_the_database_of_its_tasks_backend(settings):
    cron("0 3 * * *", name="of code")(task(report))
    given(settings, nightly=NIGHTLY)
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

    given(settings, nightly={**NIGHTLY, "cron": "61 * * * *"})
    with pytest.raises(SystemCheckError, match=r"E301"):
        call_command("check")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"queue": "mial"}, "did you mean 'mail'"), ({"budget": "project:{nobody}"}, "no argument 'nobody'")],
)
def test_a_queue_or_a_budget_that_the_task_cannot_have_is_warned_about(settings, options, said):
    settings.TASKS = {"default": {**settings.TASKS["default"], "QUEUES": ["default", "mail"]}}
    given(settings, nightly={**NIGHTLY, **options})
    (warning,) = check_schedules()
    assert warning.id == "pgonly_django.W301"
    assert said in warning.msg


@pytest.fixture
def deploy(settings):
    """A worker starts with this code: what PGONLY["SCHEDULES"] says."""

    def start(**entries):
        settings.PGONLY = {"SCHEDULES": entries}
        return declare("default", worker_id(), LEASE)

    return start


def names():
    return sorted(Schedule.objects.values_list("name", flat=True))


def test_what_is_declared_has_a_row_that_says_the_same(deploy):
    assert deploy(nightly=NIGHTLY, often=OFTEN) == {"nightly", "often"}
    nightly, often = Schedule.objects.order_by("name")
    assert (nightly.cron, nightly.timezone, nightly.overlap) == ("0 3 * * *", "UTC", "skip")
    assert nightly.args == [1]
    assert (often.every_seconds, often.cron) == (3600.0, None)
    assert not nightly.is_planned
    look("nightly", "often")
    assert fresh(nightly).is_planned


@pytest.mark.parametrize("args", [[1], [(1, 2)], [b"bytes"], [{"a": {"b": 1.5}}]])
def test_a_deploy_without_a_change_writes_nothing(deploy, args):
    code = {"nightly": Declaration(name="nightly", **{**NIGHTLY, "args": args}).columns()}
    assert Schedule.objects.declare(code) == 1
    assert Schedule.objects.declare(code) == 0
    deploy(nightly={**NIGHTLY, "args": args})
    row = Schedule.objects.extra(select={"xmin": "xmin::text"}).get()
    deploy(nightly={**NIGHTLY, "args": args})
    assert Schedule.objects.extra(select={"xmin": "xmin::text"}).get().xmin == row.xmin


def test_a_changed_line_is_planned_again_and_changed_arguments_keep_the_tick_that_is_due(deploy):
    deploy(nightly=NIGHTLY)
    missed = timezone.now() - HOUR
    Schedule.objects.update(next_at=missed)
    deploy(nightly={**NIGHTLY, "args": [5]})
    row = Schedule.objects.get()
    assert (row.args, row.next_at) == ([5], missed)
    deploy(nightly={**NIGHTLY, "args": [5], "cron": "0 4 * * *"})
    row = Schedule.objects.get()
    assert (row.cron, row.is_planned) == ("0 4 * * *", False)
    deploy(nightly={**OFTEN})
    row = Schedule.objects.get()
    assert (row.cron, row.every_seconds) == (None, 3600.0)


def test_a_pause_survives_a_deploy(deploy):
    deploy(nightly=NIGHTLY)
    Schedule.objects.all().pause()
    deploy(nightly={**NIGHTLY, "cron": "0 4 * * *"})
    row = Schedule.objects.get()
    assert row.paused_at is not None
    assert row.cron == "0 4 * * *"


def test_an_edit_survives_a_deploy_until_it_is_reset(deploy):
    deploy(nightly=NIGHTLY)
    Schedule.objects.all().edit(cron="0 6 * * *")
    look("nightly")
    deploy(nightly={**NIGHTLY, "args": [9]})
    row = Schedule.objects.get()
    assert (row.cron, row.args) == ("0 6 * * *", [1])
    assert row.is_planned
    Schedule.objects.all().reset()
    row = Schedule.objects.get()
    assert (row.cron, row.args, row.edited_at) == ("0 3 * * *", [9], None)
    assert not row.is_planned


def test_a_removed_declaration_disappears(deploy):
    deploy(nightly=NIGHTLY, often=OFTEN)
    deploy(often=OFTEN)
    assert names() == ["often"]
    deploy()
    assert names() == []
    assert not needs_confirming("default")


def test_a_person_keeps_what_was_edited_paused_or_made(deploy):
    deploy(edited=NIGHTLY, paused=NIGHTLY, plain=NIGHTLY)
    make("made")
    Schedule.objects.filter(name="edited").edit(args=[3])
    Schedule.objects.filter(name="paused").pause()
    deploy()
    assert names() == ["edited", "made", "paused"]


def test_during_a_rolling_deploy_neither_version_deletes_what_the_other_has(deploy):
    deploy(old=NIGHTLY, both=OFTEN)
    make_worker()  # the old version's
    deploy(both=OFTEN, new=NIGHTLY)
    assert names() == ["both", "new", "old"]
    deploy(old=NIGHTLY, both=OFTEN)  # one more of the old version starts
    assert names() == ["both", "new", "old"]


def test_each_version_enqueues_only_what_its_code_has(deploy):
    make_worker()
    old = deploy(old=NIGHTLY, both=OFTEN)
    new = deploy(both=OFTEN, new=NIGHTLY)
    Schedule.objects.update(next_at=timezone.now())
    look(*new)
    assert Schedule.objects.filter(last_tick_at__isnull=False).count() == 2
    look(*old)
    assert Schedule.objects.filter(last_tick_at__isnull=False).count() == 3
    assert len(jobs()) == 3


def test_once_the_old_version_is_gone_its_rows_go_too(deploy):
    make_worker()
    deploy(old=NIGHTLY, both=OFTEN)
    deploy(both=OFTEN)
    Schedule.objects.filter(name="old").update(declared_at=timezone.now() - declare_module.FORGOTTEN_AFTER)
    deploy(both=OFTEN)
    assert names() == ["both"]


def test_a_service_that_was_killed_may_be_back_within_minutes(deploy):
    deploy(old=NIGHTLY)
    killed = make_worker(timedelta(minutes=5))  # whose only worker it was
    deploy(new=OFTEN)
    assert names() == ["new", "old"]
    killed.delete()
    deploy(new=OFTEN)
    assert names() == ["new"]


def test_the_rows_of_a_worker_that_sleeps_stay(deploy):
    deploy(old=NIGHTLY, both=OFTEN)
    sleeper = make_worker(DAY, sleeping_since=timezone.now())
    Schedule.objects.filter(name="old").update(declared_at=timezone.now() - declare_module.FORGOTTEN_AFTER)
    deploy(both=OFTEN)
    assert names() == ["both", "old"]
    sleeper.delete()
    deploy(both=OFTEN)
    assert names() == ["both"]


def test_rows_are_confirmed_now_and_then_all_at_once(deploy, django_assert_max_num_queries):
    code = {f"often {number}": OFTEN for number in range(20)}
    deploy(**code)
    Schedule.objects.update(declared_at=timezone.now() - DAY)
    with django_assert_max_num_queries(12):
        deploy(**code)
    assert not Schedule.objects.filter(declared_at__lt=timezone.now() - timedelta(minutes=1)).exists()


def test_a_row_that_another_process_has_locked_is_confirmed_another_time(deploy, other):
    deploy(often=OFTEN, nightly=NIGHTLY)
    Schedule.objects.update(declared_at=timezone.now() - DAY)
    with while_locked(Schedule.objects.get(name="often"), other):
        deploy(often=OFTEN, nightly=NIGHTLY)
    old = Schedule.objects.filter(declared_at__lt=timezone.now() - timedelta(minutes=1))
    assert [row.name for row in old] == ["often"]


def test_a_row_that_a_person_made_becomes_the_codes_when_that_declares_its_name(deploy):
    make("nightly", edited_at=timezone.now())
    deploy(nightly=NIGHTLY)
    row = Schedule.objects.get()
    assert (row.every_seconds, row.cron) == (3600.0, None)  # a person's word counts
    Schedule.objects.all().reset()
    assert Schedule.objects.get().cron == "0 3 * * *"


def test_without_any_declaration_nothing_is_written(deploy, django_assert_max_num_queries):
    with django_assert_max_num_queries(8):
        assert deploy() == set()
