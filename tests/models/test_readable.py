"""One odd row breaks no list: what Python cannot hold is read as the nearest that it can."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.db.models import TextField
from django.db.models.functions import Cast
from django.utils import timezone

from pgonly_django.models import Job
from pgonly_django.models.readable import UnreadableJson

pytestmark = pytest.mark.django_db

FIRST, LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


@pytest.fixture
def job():
    return Job.objects.create(task="tests.jobs.add")


def write(column: str, value: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE pgonly_job SET {column} = %s", [value])


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("infinity", LAST),
        ("294276-01-01 00:00+00", LAST),
        ("-infinity", FIRST),
        ("0044-03-15 00:00+00 BC", FIRST),
        ("2026-01-02 03:04:05.678901+00", datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
    ],
)
def test_a_time_beyond_pythons_is_read_as_the_first_or_last_one(job, stored, read):
    write("started_at", stored)
    job.refresh_from_db()
    assert job.started_at == read
    assert list(Job.objects.values_list("started_at", flat=True).distinct().order_by("started_at")) == [read]


def test_nothing_stays_nothing(job):
    job.refresh_from_db()
    assert job.started_at is None
    assert job.max_runtime is None
    assert job.progress is None


def test_a_filter_sees_the_column_as_it_is(job):
    write("started_at", "infinity")
    assert Job.objects.filter(started_at__gt=LAST).count() == 1
    assert Job.objects.filter(started_at__gt=timezone.now()).count() == 1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("years", [178_000_000, 2_775_000])
def test_an_interval_beyond_pythons_is_read_as_the_longest(job, sign, years):
    write("retention", f"{sign * years} years")
    job.refresh_from_db()
    assert job.retention == sign * timedelta(days=980_000_000)


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 5000 + "]" * 5000])
def test_json_that_python_cannot_load_is_saved_as_it_was(job, value):
    write("result", value)
    job.refresh_from_db()
    job.queue = "other"
    job.save()
    Job.objects.bulk_update([job], ["queue", "result"])
    assert Job.objects.annotate(text=Cast("result", TextField())).get().text == value


def test_json_that_python_cannot_load_is_read_as_its_text(job):
    write("result", "1" * 5000)
    job.refresh_from_db()
    assert job.result == "1" * 5000
    assert isinstance(job.result, UnreadableJson)
