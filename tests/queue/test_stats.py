"""The counts that stay when jobs are pruned."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.core import serializers
from django.db import connection

from pgonly_django.models import JobStats
from pgonly_django.models.job_stats import BOUNDS, BUCKETS, STATS_KEPT
from pgonly_django.queue.stats import BATCH, RunCounts, add, prune

pytestmark = pytest.mark.django_db(transaction=True)


def rows(granularity):
    fields = ("queue", "task", "succeeded", "failed", "retried", "waiting_times", "run_times")
    found = JobStats.objects.filter(granularity=granularity).values_list(*fields)
    return sorted(found)


def counted(task="tasks.a", *, succeeded=1, **counts):
    return RunCounts(queue="ai", task=task, succeeded=succeeded, **counts)


def test_counts_are_added_to_the_present_minute_and_hour(server):
    began = datetime.now(UTC)
    add(server, [counted(succeeded=3, failed=1, waiting_times=[1, 3], run_times=[0, 0, 4])])
    add(server, [counted(retried=5, succeeded=2, waiting_times=[0, 0, 7]), counted("tasks.b")])
    expected = [("ai", "tasks.a", 5, 1, 5, [1, 3, 7], [0, 0, 4]), ("ai", "tasks.b", 1, 0, 0, [], [])]
    hour = JobStats.objects.filter(granularity="hour").latest("starts_at").starts_at
    minute = JobStats.objects.filter(granularity="minute").latest("starts_at").starts_at
    assert hour == minute.replace(minute=0)
    assert timedelta(minutes=-1) < minute - began < timedelta(minutes=1)
    if (
        JobStats.objects.filter(granularity="minute", task="tasks.a").count() == 1
    ):  # else a minute began in between
        assert rows("minute") == expected
    if JobStats.objects.filter(granularity="hour", task="tasks.a").count() == 1:
        assert rows("hour") == expected


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_an_hour_begins_with_an_hour_of_utc_whatever_the_time_zone_of_the_session(server, zone):
    server.execute(f"SET timezone = '{zone}'")
    add(server, [counted()])
    assert JobStats.objects.get(granularity="hour").starts_at.astimezone(UTC).minute == 0


def test_two_workers_that_write_the_same_rows_at_once_lose_nothing(server, other):
    names = [f"tasks.t{number}" for number in range(20)]
    with server.transaction():
        add(server, [counted(name) for name in names])
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(Exception, match="lock timeout"):
            add(other, [counted(name) for name in reversed(names)])
    add(other, [counted(name) for name in reversed(names)])
    totals = JobStats.objects.filter(granularity="hour").values_list("succeeded", flat=True)
    assert sum(totals) == 40


def test_minutes_are_pruned_after_three_hours_and_hours_after_35_days(server):
    assert {"minute": timedelta(hours=3), "hour": timedelta(days=35)} == STATS_KEPT
    for granularity, age in STATS_KEPT.items():
        for seconds in (-60, 60):
            starts_at = datetime.now(UTC) - age + timedelta(seconds=seconds)
            JobStats.objects.create(granularity=granularity, starts_at=starts_at, queue=str(seconds), task="")
    assert prune(server) == 1
    assert prune(server) == 0
    left = JobStats.objects.values_list("granularity", "queue")
    assert sorted(left) == [("hour", "60"), ("minute", "60")]


def test_a_batch_that_is_full_says_that_more_are_left(server):
    long_ago = datetime.now(UTC) - timedelta(days=1)
    JobStats.objects.bulk_create(
        JobStats(granularity="minute", starts_at=long_ago, queue="ai", task=f"t{number}")
        for number in range(BATCH + 1)
    )
    assert [prune(server) for _ in range(3)] == [BATCH, 1, 0]


def test_the_bounds_of_the_histogram_reach_from_a_millisecond_to_a_month():
    assert len(BOUNDS) == BUCKETS == 64
    assert BOUNDS[0] == 0.001
    assert BOUNDS[20] == pytest.approx(1.024)
    assert timedelta(seconds=BOUNDS[-1]) > timedelta(days=30)


def test_a_row_goes_through_dumpdata_and_loaddata():
    now = datetime.now(UTC)
    JobStats.objects.create(granularity="hour", starts_at=now, queue="ai", task="t", waiting_times=[1, 2])
    text = serializers.serialize("json", JobStats.objects.all())
    JobStats.objects.all().delete()
    for each in serializers.deserialize("json", text):
        each.save()
    row = JobStats.objects.get()
    assert row.waiting_times == [1, 2]
    assert row.run_times == []
    assert str(row) == f"t hour {now:%Y-%m-%d %H:%M}"


def test_updates_of_a_row_write_into_no_index():
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = 'pgonly_job_stats'")
        assert cursor.fetchone() == (["fillfactor=50"],)
