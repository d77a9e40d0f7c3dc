from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from pgonly_django.models import Schedule
from pgonly_django.models.schedule import UNPLANNED
from pgonly_django.worker.connection import JobsListener
from tests.scheduling.rows import HOUR, fresh, make
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
NEXT = timezone.now() + HOUR


@pytest.fixture
def heard(server):
    """Whether workers have heard that a schedule changed, since the last call."""
    listener = JobsListener("default", listens=True)
    listener.open(server)
    listener.hear(server)

    def since_the_last_call():
        server.execute("SELECT 1")
        return "schedules" in listener.hear(server)

    return since_the_last_call


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.pause(),
        lambda rows: rows.filter(name="paused").resume(),
        lambda rows: rows.edit(args=[2]),
        lambda rows: rows.filter(name="edited").reset(),
        lambda rows: rows.declare({"new": {"task": "x", "every_seconds": 5.0}}),
        lambda rows: rows.create(name="new", task="x", every_seconds=5.0),
        lambda rows: rows.first().save(),
    ],
)
def test_a_change_is_told_when_it_commits_and_not_when_it_is_rolled_back(heard, change):
    make("report")
    make("paused", paused_at=NEXT)
    make("edited", declared={"task": "x"}, edited_at=NEXT)
    wait_for(heard)
    with transaction.atomic():
        change(Schedule.objects.all())
        assert not heard()
        transaction.set_rollback(True)
    assert not heard()
    change(Schedule.objects.all())
    wait_for(heard)


def test_what_changes_nothing_tells_nothing(heard):
    make("report")
    wait_for(heard)
    Schedule.objects.all().resume()
    Schedule.objects.filter(name="other").pause()
    assert not heard()


def test_the_verbs_count_the_rows_that_they_change():
    make("one"), make("two", paused_at=NEXT)
    rows = Schedule.objects.all()
    assert (rows.pause(), rows.pause(), rows.resume(), rows.resume()) == (1, 0, 2, 0)
    assert (rows.edit(args=[2]), rows.reset()) == (2, 0)


@pytest.mark.parametrize(
    ("change", "is_planned"),
    [
        ({"every_seconds": 60.0}, False),
        ({"every_seconds": None, "cron": "0 3 * * *"}, False),
        ({"every_seconds": 3600.0}, True),
        ({"args": [5]}, True),
    ],
)
def test_another_timing_is_planned_again_however_it_is_changed(change, is_planned):
    edited, saved = make("edited", next_at=NEXT), make("saved", next_at=NEXT)
    Schedule.objects.filter(name="edited").edit(**change)
    saved = fresh(saved)
    for name, value in change.items():
        setattr(saved, name, value)
    saved.save()
    assert [fresh(row).is_planned for row in (edited, saved)] == [is_planned, is_planned]


def test_saving_some_columns_plans_again_too():
    make(next_at=NEXT)
    row = Schedule.objects.get()
    row.every_seconds = 60.0
    row.save(update_fields=["every_seconds"])
    assert fresh(row).next_at == UNPLANNED


def test_a_row_with_deferred_columns_is_saved_without_loading_them():
    make(next_at=NEXT)
    row = Schedule.objects.only("args").get()
    row.args = [7]
    row.save()
    assert (fresh(row).args, fresh(row).is_planned) == ([7], True)


@pytest.mark.parametrize(
    "columns",
    [
        {"cron": None, "every_seconds": None},
        {"cron": "0 3 * * *", "every_seconds": 60.0},
        {"cron": None, "every_seconds": 0.05},
        {"cron": None, "every_seconds": -1.0},
    ],
)
def test_a_row_has_exactly_one_timing(columns):
    with pytest.raises(IntegrityError, match="pgonly_schedule_has_one_timing"):
        make(**columns)
    connection.rollback()
