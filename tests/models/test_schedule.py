from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.utils import timezone

from pgonly_django.models import Schedule
from pgonly_django.models import schedule as schedule_module
from pgonly_django.models.schedule import OF_WORKERS, UNPLANNED, lock
from pgonly_django.tables import qualified
from pgonly_django.worker.connection import JobsListener
from tests import activity
from tests.queue.rows import while_locked
from tests.scheduling.rows import HOUR, fresh, make
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
NEXT = timezone.now() + HOUR
NEW_TICK = """
INSERT INTO pgonly_tick (schedule_id, tick_at, outcome, reason, by_person)
VALUES ('report', now(), 'enqueued', '', false)
"""


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


def of_workers(row):
    return Schedule.objects.values_list(*OF_WORKERS).get(pk=row.pk)


@pytest.mark.parametrize("refreshes", [False, True])
def test_a_row_that_was_read_before_a_tick_is_saved_without_what_workers_write(refreshes):
    created = make()
    read = Schedule.objects.only("args", *OF_WORKERS).get()
    if refreshes:
        read.refresh_from_db(fields=OF_WORKERS)
    written = (NEXT + HOUR, NEXT, "It broke")
    Schedule.objects.update(**dict(zip(OF_WORKERS, written, strict=True)))
    for row, args in [(created, [7]), (read, [8]), (read, [9])]:
        row.args = args
        row.save()
        assert (fresh(row).args, of_workers(row)) == (args, written)
    created.every_seconds = 60.0
    created.save()
    assert of_workers(created) == (UNPLANNED, NEXT, "It broke")


def test_what_the_caller_sets_of_it_is_saved():
    row = fresh(make())
    row.next_at = row.last_tick_at = NEXT
    row.save()
    assert of_workers(row) == (NEXT, NEXT, None)


def test_a_row_under_a_new_name_is_a_copy_and_one_that_was_deleted_stays_so():
    row = fresh(make(next_at=NEXT))
    row.name = "copy"
    row.save()
    assert of_workers(row) == (NEXT, None, None)
    Schedule.objects.filter(pk="copy").delete()
    with pytest.raises(DatabaseError):
        row.save()
    assert [each.name for each in Schedule.objects.all()] == ["report"]


@pytest.mark.parametrize(
    "delete", [lambda row: row.delete(), lambda row: Schedule.objects.filter(pk=row.pk).delete()]
)
def test_a_schedule_is_deleted_with_the_row_of_a_tick_that_runs(delete, other, server):
    row = make()

    def delete_in_thread():
        try:
            return delete(row)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        with while_locked(row, other):
            other.execute(qualified(NEW_TICK))
            deleted = thread.submit(delete_in_thread)
            wait_for(lambda: activity.pids("wait_event_type = 'Lock' AND query LIKE '%pgonly_%'", server))
        assert deleted.result()[0] == 2
    assert not Schedule.objects.exists()


def test_one_that_matches_only_after_the_lock_is_not_deleted(monkeypatch):
    make(paused_at=NEXT)
    make("late")
    paused = Schedule.objects.filter(paused_at__isnull=False)

    def locking(*args):
        rows = lock(*args)
        Schedule.objects.filter(pk="late").pause()
        return rows

    monkeypatch.setattr(schedule_module, "lock", locking)
    assert len(paused) == 1
    assert paused.delete()[0] == 1
    assert [row.name for row in paused] == ["late"]


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
