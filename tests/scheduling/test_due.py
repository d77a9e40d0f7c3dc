from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.db.models import DateTimeField, Value
from django.utils import timezone

from pgonly_django.models import Job, Schedule, State, Tick
from pgonly_django.models.schedule import UNPLANNED
from pgonly_django.queue.enqueue import aware
from pgonly_django.scheduling import due as due_module
from pgonly_django.scheduling.calls import TICKS_SEEN
from pgonly_django.scheduling.due import DueSchedules, Turn
from tests.queue.rows import SECOND, while_locked
from tests.scheduling.rows import DAY, HOUR, MINUTE, clock, fresh, jobs, look, make, make_many, ticks
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_due_schedule_enqueues_its_task_and_plans_the_next_tick():
    schedule = make(kwargs={"b": 2})
    seconds = look()
    (job,) = jobs()
    assert (job.task, job.args, job.kwargs, job.state) == ("tests.jobs.add", [1], {"b": 2}, State.READY)
    assert job.run_at == schedule.next_at
    assert [(tick.tick_at, tick.job_id) for tick in ticks(schedule)] == [(schedule.next_at, job.id)]
    now = fresh(schedule)
    assert (now.last_tick_at, now.next_at) == (schedule.next_at, schedule.next_at + HOUR)
    assert 3590 < seconds < 3600


def test_an_async_task_is_enqueued_as_any_other():
    make(task="tests.scheduling.tasks.ahello", args=[])
    look()
    assert len(jobs()) == 1


def test_a_new_schedule_is_planned_from_its_creation_and_enqueues_nothing():
    schedule = make(next_at=UNPLANNED, every_seconds=60.0)
    assert 59 < look() <= 60
    assert fresh(schedule).next_at == fresh(schedule).created_at + MINUTE
    assert jobs() == []


def test_a_cron_line_is_planned_for_its_next_time_by_the_databases_clock():
    schedule = make(next_at=UNPLANNED, cron="0 3 * * *", timezone="Asia/Shanghai")
    look()
    planned = fresh(schedule).next_at
    assert timedelta(0) < planned - clock() <= DAY
    assert (planned.astimezone(UTC).hour, planned.minute, planned.second) == (19, 0, 0)


def test_nothing_is_enqueued_before_its_time():
    make(next_at=timezone.now() + HOUR)
    assert 3590 < look() <= 3600
    assert jobs() == []


def test_without_schedules_there_is_nothing_to_wait_for_and_one_statement_says_so(django_assert_num_queries):
    with django_assert_num_queries(1):
        assert look() is None


def test_a_paused_schedule_enqueues_nothing_and_is_not_waited_for():
    schedule = make()
    Schedule.objects.filter(pk=schedule.pk).pause()
    assert look() is None
    assert jobs() == []


def test_what_passed_during_a_pause_stays_passed():
    schedule = make(next_at=timezone.now() - 3 * HOUR, last_tick_at=timezone.now() - 4 * HOUR)
    Schedule.objects.all().pause()
    Schedule.objects.all().resume()
    look()
    assert jobs() == []
    assert clock() < fresh(schedule).next_at <= clock() + HOUR


def test_an_interval_does_not_drift_however_late_its_ticks_are_seen():
    begin = timezone.now() - timedelta(seconds=250)
    schedule = make(every_seconds=60.0, next_at=begin, last_tick_at=begin - MINUTE)
    look()
    assert fresh(schedule).last_tick_at == begin + 4 * MINUTE
    assert fresh(schedule).next_at == begin + 5 * MINUTE


def test_another_interval_counts_from_the_last_tick():
    last = timezone.now() - timedelta(seconds=90)
    schedule = make(every_seconds=3600.0, next_at=last + HOUR, last_tick_at=last)
    Schedule.objects.all().edit(every_seconds=60.0)
    look()
    assert fresh(schedule).next_at == last + 2 * MINUTE
    assert jobs() == []


@pytest.mark.parametrize(("catch_up", "expected"), [("latest", [0]), ("all", [-3, -2, -1, 0]), ("none", [])])
def test_after_downtime_the_rule_decides_which_ticks_run(catch_up, expected):
    latest = timezone.now() - 5 * MINUTE
    schedule = make(
        next_at=latest - 3 * HOUR, last_tick_at=latest - 4 * HOUR, catch_up=catch_up, overlap="allow"
    )
    look()
    assert [job.run_at for job in jobs()] == [latest + hours * HOUR for hours in expected]
    assert fresh(schedule).next_at == latest + HOUR


def test_with_catch_up_none_a_tick_that_is_less_than_a_minute_late_runs():
    make(next_at=timezone.now() - 3 * HOUR - 30 * SECOND, catch_up="none")
    look()
    assert len(jobs()) == 1


def test_the_latest_tick_of_a_year_of_downtime_is_found_at_once():
    schedule = make(cron="* * * * * *", every_seconds=None, next_at=timezone.now() - 365 * DAY)
    before = clock()
    look()
    (job,) = jobs()
    assert clock() - before < 20 * SECOND
    assert timedelta(0) <= fresh(schedule).next_at - job.run_at <= 2 * SECOND


@pytest.mark.slow
def test_more_missed_ticks_than_one_transaction_takes_run_in_several():
    first = timezone.now() - timedelta(seconds=250.5)
    make(every_seconds=1.0, next_at=first, catch_up="all", overlap="allow")
    look()
    times = [job.run_at for job in jobs()]
    assert len(times) >= 251
    assert times == [first + place * SECOND for place in range(len(times))]


def look_until_the_neighbour_has_ticked():
    """Returns how many looks it took. The neighbour has been due for the shortest time."""
    make("neighbour", args=[2])
    looks = 0

    def is_over():
        nonlocal looks
        looks += 1
        return looks > 100 or Job.objects.filter(args=[2]).exists()

    DueSchedules("default").run(is_over)
    return looks


@pytest.mark.slow
def test_one_that_catches_up_takes_turns_with_the_others():
    make(next_at=timezone.now() - DAY, every_seconds=60.0, catch_up="all", overlap="allow")
    look_until_the_neighbour_has_ticked()
    assert 2 <= len(jobs()) <= 101
    look()
    assert len(jobs()) >= 1441


def test_the_turn_of_one_whose_calls_are_slow_ends_before_its_portion(monkeypatch):
    monkeypatch.setattr(due_module, "PORTION_SECONDS", 0.0)
    schedule = make(next_at=timezone.now() - HOUR, every_seconds=60.0, catch_up="all", overlap="allow")
    look_until_the_neighbour_has_ticked()
    assert [job.args for job in jobs()] == [[1], [2]]
    now = fresh(schedule)
    assert (now.last_tick_at, now.next_at) == (schedule.next_at, schedule.next_at + MINUTE)


def test_those_that_cannot_be_enqueued_come_after_the_others(monkeypatch):
    monkeypatch.setattr(due_module, "PUT_OFF_SECONDS", 0.0)
    for number in range(3):
        make(f"broken {number}", task="tests.jobs.gone", next_at=timezone.now() - HOUR)
    assert look_until_the_neighbour_has_ticked() <= 5


@pytest.mark.parametrize("problem", [None, "gone"])
def test_hundreds_that_cannot_be_enqueued_hold_up_no_other(problem):
    make_many(300, task="tests.jobs.gone", next_at=timezone.now() - HOUR, problem=problem)
    assert look_until_the_neighbour_has_ticked() <= 5


@pytest.mark.parametrize("broken", [0, 10])
def test_one_that_failed_once_has_its_turn_while_others_catch_up(broken, monkeypatch):
    monkeypatch.setattr(due_module, "PORTION_SECONDS", 0.05)
    monkeypatch.setattr(due_module, "TRY_SECONDS", 0.0)  # one turn, as where each takes long
    monkeypatch.setattr(due_module, "PUT_OFF_SECONDS", 0.0)  # those that fail compete at once
    late = timezone.now() - HOUR
    for number in range(3):
        make(f"late {number}", next_at=late, every_seconds=1.0, catch_up="all", overlap="allow")
    make_many(broken, task="tests.jobs.gone", next_at=late - HOUR, problem="gone")
    Schedule.objects.filter(name__gte="many 5").update(next_at=late)
    mended = make("mended", next_at=late - MINUTE, problem="once")
    until = time.monotonic() + 5

    def is_over():
        return time.monotonic() > until or fresh(mended).problem is None

    DueSchedules("default").run(is_over)
    assert len(ticks(mended)) == 1
    assert Schedule.objects.filter(name__startswith="late", next_at__lt=timezone.now()).count() == 3


def test_of_thousands_that_cannot_be_enqueued_each_look_tries_ten():
    make(task="tests.jobs.gone")
    due = DueSchedules("default")
    look(due=due)
    due._put_off["report"] = time.monotonic() + 0.5
    assert look(due=due) == 10 * due_module.TRY_SECONDS


def test_of_hundreds_that_cannot_be_enqueued_only_some_are_tried_each_second(monkeypatch):
    monkeypatch.setattr(due_module, "TRY_SECONDS", 20.0)
    make_many(5, task="tests.jobs.gone", next_at=timezone.now() - HOUR)
    due = DueSchedules("default")
    look(due=due)
    assert max(due._put_off.values()) - min(due._put_off.values()) > 20


def test_hundreds_of_new_ones_are_planned_together_and_a_wrong_one_says_why(django_assert_max_num_queries):
    names = make_many(600, next_at=UNPLANNED, every_seconds=None, cron="0 3 * * *", declared={})
    wrong = make("wrong", next_at=UNPLANNED, every_seconds=None, cron="61 * * * *")
    with django_assert_max_num_queries(30):
        look(*names)
    assert Schedule.objects.filter(next_at__gt=timezone.now(), problem=None).count() == len(names)
    assert "is not a cron line" in fresh(wrong).problem
    assert jobs() == []


@pytest.mark.parametrize("overlap", ["skip", "replace"])
def test_a_tick_that_has_a_row_is_not_enqueued_again_and_replaces_no_run(overlap):
    schedule = make(overlap=overlap)
    look()
    Schedule.objects.filter(pk=schedule.pk).update(next_at=schedule.next_at)
    look()
    (job,) = jobs()
    assert job.state == State.READY
    assert fresh(schedule).next_at == schedule.next_at + HOUR


def test_a_schedule_that_another_worker_has_locked_is_left_to_it(other):
    schedule = make()
    with while_locked(schedule, other):
        assert look() == due_module.LOCKED_SECONDS
        assert jobs() == []
    look()
    assert len(jobs()) == 1


def test_a_locked_schedule_holds_up_no_other(other):
    first = make("first", next_at=timezone.now() - MINUTE)
    make("second", args=[2])
    with while_locked(first, other):
        look()
        assert [job.args for job in jobs()] == [[2]]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"task": "tests.jobs.gone"}, "tests.jobs.gone"),
        ({"task": "no.such.module.task"}, "no.such.module"),
        ({"task": "tests.waiting.wait_for"}, "is not a task"),
        ({"args": [1, 2, 3]}, "cannot be called with these arguments"),
        ({"kwargs": {"colour": 1}}, "colour"),
        ({"priority": 500}, "priority"),
        ({"budget": "{unknown}"}, "unknown"),
        ({"cron": "61 * * * *", "every_seconds": None}, "is not a cron line"),
        ({"cron": "0 3 * * *", "every_seconds": None, "timezone": "Asia/Shangai"}, "Asia/Shanghai"),
    ],
)
def test_a_schedule_that_cannot_be_enqueued_says_why_once_and_stops_no_other(columns, said, caplog):
    broken = make("broken", **{"next_at": timezone.now() - MINUTE, **columns})
    make("sound", args=[2])
    due = DueSchedules("default")
    with caplog.at_level(logging.ERROR, "pgonly_django.scheduling"):
        assert 0 < look(due=due) <= due_module.PUT_OFF_SECONDS
        due._put_off.clear()
        look(due=due)
        look()  # another worker
    assert [job.args for job in jobs()] == [[2]]
    assert said in fresh(broken).problem
    assert len(caplog.records) == 1
    assert fresh(broken).next_at == broken.next_at


def test_a_repaired_schedule_runs_its_tick_and_has_no_problem_any_more():
    broken = make(task="tests.jobs.gone", problem="Cannot import")
    Schedule.objects.filter(pk=broken.pk).edit(task="tests.jobs.add")
    assert fresh(broken).problem is None
    look()
    assert [job.run_at for job in jobs()] == [broken.next_at]


def test_the_ticks_of_a_schedule_are_pruned_by_its_later_ones():
    schedule = make(every_seconds=60.0)
    rows = [
        Tick(schedule=schedule, tick_at=schedule.next_at - place * MINUTE, outcome=outcome)
        for place in range(1, TICKS_SEEN + 50)
        for outcome in (["skipped"] if place < 20 or place % 2 else ["enqueued"])
    ]
    Tick.objects.bulk_create(rows)
    look()
    assert len(ticks(schedule, outcome="skipped")) <= TICKS_SEEN
    assert len(ticks(schedule, outcome="enqueued")) <= TICKS_SEEN
    assert ticks(schedule)[-1].tick_at == schedule.next_at


def test_rows_of_other_code_are_left_to_its_workers_unless_a_person_edited_them():
    make("theirs", declared={"task": "x"})
    look()
    assert jobs() == []
    look("theirs")
    assert len(jobs()) == 1
    make("edited", declared={"task": "x"}, edited_at=timezone.now())
    look()
    assert len(jobs()) == 2


def test_the_options_of_the_schedule_win():
    task = "tests.scheduling.tasks.tick_and_budget"
    make(task=task, args=[], queue="night", priority=-5, budget="nightly", metadata={"team": "ai"})
    look()
    (job,) = jobs()
    assert (job.queue, job.priority) == ("night", -5)
    assert (job.options, job.metadata) == ({"budget": "nightly"}, {"team": "ai"})


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_it_works_at_a_stricter_isolation(level):
    with connection.cursor() as cursor:
        cursor.execute(f"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}")
    try:
        make()
        look()
        assert len(jobs()) == 1
    finally:
        connection.close()


def test_a_turn_that_ends_in_time_leaves_neither_a_thread_nor_anything_in_hand():
    called, threads = [], threading.active_count()
    with Turn("some", "nightly", called.append) as turn:
        pass
    wait_for(lambda: threading.active_count() <= threads)
    turn._become_long()  # late by a moment
    assert not (turn.is_long or called or due_module.in_hand["some"])


def test_without_use_tz_the_times_are_the_same(settings):
    settings.USE_TZ, settings.TIME_ZONE = False, "America/New_York"
    schedule = make(next_at=datetime.now() - SECOND)
    assert 3590 < look() < 3600
    assert len(jobs()) == 1
    assert fresh(schedule).next_at == schedule.next_at + HOUR


@pytest.mark.parametrize("timing", [{"every_seconds": 1200.0}, {"cron": "*/20 * * * *"}])
@pytest.mark.parametrize("month", [3, 10])
def test_without_use_tz_each_tick_runs_when_the_clocks_change(settings, month, timing):
    settings.USE_TZ, settings.TIME_ZONE = False, "Europe/Berlin"
    begin, minutes = datetime(2026, month, 29 if month == 3 else 25, 23, tzinfo=UTC) - DAY, 10 * MINUTE
    make(next_at=begin, overlap="allow", timezone="Europe/Berlin", **timing)
    due, waits = DueSchedules("default"), []
    for step in range(24):
        due._now = Value(begin + step * minutes, output_field=DateTimeField())
        waits.append(look(due=due))
    assert waits == [1200, 600] * 12
    assert [aware(job.run_at).astimezone(UTC) for job in jobs()] == [
        begin + n * 2 * minutes for n in range(12)
    ]


def test_a_job_that_waits_keeps_the_row_when_its_schedule_is_deleted():
    schedule = make()
    look()
    schedule.delete()
    assert Job.objects.count() == 1
    assert Tick.objects.count() == 0
