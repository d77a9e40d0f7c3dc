from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connections
from django.utils import timezone

from pgonly_django import limiter
from pgonly_django.exceptions import LimiterTimeoutError, WrongArgumentsError
from pgonly_django.models import Job, Schedule, Tick
from pgonly_django.tasks.registry import UnknownTaskError
from pgonly_django.testing import drain, time_travel, travel
from tests.jobs import add, drained, echo
from tests.queue.rows import make_running
from tests.scheduling.rows import make
from tests.sql import setting, sql
from tests.testing.conftest import both

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def values():
    return [result.return_value for result in drain()]


def times():
    return list(Job.objects.order_by("pk").values_list("enqueued_at", "run_at", "finished_at"))


@pytest.fixture
def nightly(settings):
    """A schedule of every night at three, and one of every five minutes."""
    settings.PGONLY = {
        **settings.PGONLY,
        "SCHEDULES": {
            "nightly": {"task": "tests.jobs.add", "args": [1], "cron": "0 3 * * *", "timezone": "UTC"},
            "often": {"task": "tests.jobs.echo", "args": ["often"], "every": 300},
        },
    }


def next_night():
    now = timezone.now()
    tonight = datetime(now.year, now.month, now.day, 3, tzinfo=UTC)
    return tonight if tonight > now else tonight + DAY


@both
def test_jobs_become_due(where):
    echo.using(run_after=timezone.now() + HOUR).enqueue("in an hour")
    echo.using(run_after=timezone.now() + 2 * HOUR).enqueue("in two")
    with time_travel(59 * MINUTE):
        assert values() == []
    with time_travel(HOUR + MINUTE):
        assert values() == ["in an hour"]
    assert values() == []
    with time_travel(timezone.now() + 3 * HOUR):
        assert values() == ["in two"]


def test_what_is_enqueued_in_the_block_is_due_from_then_on(db):
    with time_travel(DAY):
        echo.using(run_after=timezone.now() + HOUR).enqueue("an hour later")
        assert values() == []
        with time_travel(HOUR + MINUTE):
            assert values() == ["an hour later"]


def test_rates_of_queues_have_moved_on(db, settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"slow": {"rate": (1, 3600)}}}
    for number in range(3):
        echo.using(queue_name="slow").enqueue(number)
    assert values() == [0]
    with time_travel(HOUR):
        assert values() == [1]
        with time_travel(HOUR):
            assert values() == [2]


@both
def test_behind_the_block_all_is_as_before(where):
    echo.using(run_after=timezone.now() + HOUR).enqueue("waits")
    add.enqueue(1)
    drain()
    before = times()
    with time_travel(30 * MINUTE):
        assert times() == [tuple(time and time - 30 * MINUTE for time in row) for row in before]
    assert times() == before
    with pytest.raises(ZeroDivisionError), time_travel(HOUR):
        raise ZeroDivisionError
    assert times() == before
    assert travel._travelled == timedelta()


def test_blocks_inside_of_blocks_go_on_from_there(db):
    start = timezone.now()
    echo.using(run_after=start + 3 * HOUR).enqueue("late")
    with time_travel(HOUR):
        with time_travel(HOUR):
            assert values() == []
            with time_travel(start + 3 * HOUR + MINUTE):
                assert values() == ["late"]
        with pytest.raises(WrongArgumentsError, match="goes forward"), time_travel(start + 30 * MINUTE):
            pass


@both
def test_retries_snoozes_and_throttles_have_moved_on(where):
    drained.mark_and_fail.enqueue("one")
    drained.end_by.enqueue("snooze")
    throttled = echo.using(unique=True, unique_for=HOUR)
    throttled.enqueue("once")
    drain(raise_errors=False)
    assert throttled.enqueue("once").is_duplicate
    with time_travel(2 * HOUR):
        assert not throttled.enqueue("once").is_duplicate
        assert len(drain()) == 2  # the snoozed one and the second call
    with time_travel(2 * DAY), pytest.raises(ValueError, match="after one"):
        drain(queue="default")


@both
def test_a_cool_down_is_over(where, declared):
    declared(deepseek={})
    limiter("deepseek").cool_down(HOUR)
    with pytest.raises(LimiterTimeoutError), limiter("deepseek", timeout=0):
        pass
    with time_travel(HOUR), limiter("deepseek", timeout=0):
        pass


def test_the_lease_of_a_running_job_stays(db):
    job = make_running()
    with time_travel(DAY):
        assert Job.objects.get().lease_expires_at == job.lease_expires_at


# Schedules.


@both
def test_schedules_tick_only_where_the_test_says_so(where, nightly):
    with time_travel(2 * DAY):
        assert values() == []
    assert not Schedule.objects.exists()


@both
def test_a_schedule_ticks_at_its_own_time(where, nightly):
    tick = next_night()
    with time_travel(tick - MINUTE, schedules=["nightly"]):
        assert values() == []
        with time_travel(2 * MINUTE, schedules=["nightly"]):
            assert values() == [2]
            assert Tick.objects.get().tick_at == tick
            assert Schedule.objects.get(name="nightly").next_at == tick + DAY
    assert Job.objects.get().run_at == tick
    assert values() == []


def test_ticks_on_the_way_are_those_of_a_time_without_a_worker(db, settings):
    every = {"task": "tests.jobs.add", "args": [1], "every": 3600}
    schedules = {"latest": every, "all": {**every, "catch_up": "all", "overlap": "allow"}}
    settings.PGONLY = {**settings.PGONLY, "SCHEDULES": schedules}
    with time_travel(4 * HOUR + MINUTE, schedules=True):
        assert Tick.objects.filter(schedule="latest").count() == 1
        assert Tick.objects.filter(schedule="all").count() == 4
        assert len(drain()) == 5


def test_true_means_all_schedules_also_those_made_by_a_person(db, nightly):
    make("by a person", args=[4], next_at=timezone.now() + HOUR, overlap="allow")
    with time_travel(next_night() + MINUTE + DAY, schedules=True):
        assert sorted(map(str, values())) == ["2", "5", "often"]


def test_a_schedule_that_cannot_be_enqueued_raises(db):
    make("broken", task="tests.jobs.is_gone")
    with pytest.raises(UnknownTaskError, match="is_gone"), time_travel(HOUR, schedules=["broken"]):
        pass
    assert travel._travelled == timedelta()


def test_the_test_s_settings_stay_its_own(db, nightly):
    names = ("lock_timeout", "idle_in_transaction_session_timeout")
    before = [*map(setting, names)]
    with time_travel(2 * DAY, schedules=True):
        assert [*map(setting, names)] == before


# What it refuses.


@pytest.mark.parametrize("to", [60, "tomorrow", None, -HOUR, timedelta(days=40_000)])
def test_a_time_that_it_cannot_go_to_is_refused(db, to):
    with pytest.raises(WrongArgumentsError, match="time_travel"), time_travel(to):
        pass


@pytest.mark.parametrize(
    ("schedules", "said"), [(["nihgtly"], "did you mean 'nightly'?"), ("nightly", "must be True or names")]
)
def test_schedules_that_do_not_exist_are_refused(db, nightly, schedules, said):
    with pytest.raises(WrongArgumentsError, match=said), time_travel(DAY, schedules=schedules):
        pass


def test_an_error_that_breaks_the_transaction_is_the_one_that_is_raised(db):
    with pytest.raises(IntegrityError), time_travel(DAY):
        sql("INSERT INTO tests_mark (key) VALUES (NULL)")
    assert travel._travelled == timedelta()


@pytest.mark.django_db(transaction=True)
def test_in_coroutines_it_is_async():
    async def later():
        await echo.using(run_after=timezone.now() + HOUR).aenqueue("in an hour")
        async with time_travel(2 * HOUR):
            results = await sync_to_async(drain)()
        await sync_to_async(connections.close_all)()
        return [result.return_value for result in results]

    assert asyncio.run(later()) == ["in an hour"]
