"""Fields that read every value of a row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from pgonly_django.models import Job, Schedule
from pgonly_django.models.readable import OddValue, fits, read_json
from pgonly_django.tables import qualified
from tests.queue.rows import make
from tests.scheduling.rows import make as make_schedule

pytestmark = pytest.mark.django_db


def write(table, column, value):
    with connection.cursor() as cursor:
        cursor.execute(qualified(f"UPDATE {table} SET {column} = %s"), [value])


def read(table, column):
    with connection.cursor() as cursor:
        cursor.execute(qualified(f"SELECT {column}::text FROM {table}"))
        return cursor.fetchone()[0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("infinity", datetime(9999, 12, 30, tzinfo=UTC)),
        ("4714-11-24 00:00:00+00 BC", datetime(1, 1, 2, tzinfo=UTC)),
        ("2026-03-01 00:00:00+00", datetime(2026, 3, 1, tzinfo=UTC)),
        (None, None),
    ],
)
def test_a_time_that_python_cannot_hold_is_read_as_the_nearest_day(value, shown):
    make()
    write("pgonly_job", "started_at", value)
    assert Job.objects.get().started_at == shown
    assert Job.objects.values_list("started_at", flat=True).get() == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [("178000000 years", timedelta(days=980_000_000)), ("1 month", timedelta(days=30)), (None, None)],
)
def test_an_interval_that_python_cannot_hold_is_read_as_the_longest(value, shown):
    make()
    write("pgonly_job", "retention", value)
    assert Job.objects.get().retention == shown


@pytest.mark.parametrize(("value", "shown"), [("NaN", 1e13), ("Infinity", 1e13), ("0.5", 0.5)])
def test_a_number_that_cannot_be_reckoned_with_is_read_as_the_nearest(value, shown):
    make_schedule()
    write("pgonly_schedule", "every_seconds", value)
    assert Schedule.objects.get().every_seconds == shown


def test_filters_and_the_order_see_the_column_as_it_is():
    job = make()
    write("pgonly_job", "started_at", "infinity")
    assert (
        Job.objects.filter(started_at__gt=datetime(9999, 12, 31, tzinfo=UTC)).order_by("started_at").get()
        == job
    )


def test_json_of_another_shape_is_empty_to_code_and_its_text_to_people():
    make()
    write("pgonly_job", "errors", '[{"attempt": "x"}, 5]')
    errors = Job.objects.get().errors
    assert errors == '[{"attempt": "x"}, 5]'
    assert not errors
    assert (list(errors), list(reversed(errors)), errors.get("a", 1)) == ([], [], 1)


@pytest.mark.parametrize("value", ['"5"', "5", f"[{'1' * 5000}]"])
def test_what_cannot_be_read_is_saved_as_it_was(value):
    make()
    write("pgonly_job", "kwargs", value)
    Job.objects.get().save()
    assert read("pgonly_job", "kwargs") == value


def test_what_our_code_writes_is_no_odd_value():
    job = make(progress={"done": 1, "total": 2.5, "message": "x", "since": {"done": 0, "seconds": 2}})
    job.refresh_from_db()
    assert type(job.progress) is dict
    assert type(job.errors) is list


@pytest.mark.parametrize(
    ("value", "shape", "does"),
    [
        ({"a": 1, "b": "x"}, {"a": int}, True), ({"a": None}, {"a": int}, True), ({}, {"a": int}, True),
        ({"a": "x"}, {"a": int}, False), ([1], [int], True), ([1, "x"], [int], False), (5, None, True),
        ([], {"a": int}, False), ({"a": {"b": []}}, {"a": {"b": [str]}}, True), (-5, lambda value: value > 0, False),
    ],
)  # fmt: skip
def test_shapes(value, shape, does):
    assert fits(value, shape) is does


def test_a_part_of_a_json_column_is_read_as_it_is():
    Job.objects.create(task="t", progress={"done": 5, "total": 9}, errors=[{"reason": "late"}])
    parts = Job.objects.values_list("progress__done", "errors__0__reason", "errors__0")
    assert parts.get() == (5, "late", {"reason": "late"})


def test_json_that_python_cannot_load_is_text():
    digits, deep = "1" * 5000, "[" * 100_000 + "]" * 100_000
    assert all(isinstance(read_json(text), OddValue) for text in (digits, deep))
    assert read_json("[1]") == [1]


def test_a_migration_names_djangos_own_fields():
    """The columns are the same, so no migration follows from them."""
    kinds = {"started_at": "DateTimeField", "retention": "DurationField", "errors": "JSONField"}
    for name, kind in kinds.items():
        _name, path, _args, kwargs = Job._meta.get_field(name).deconstruct()
        assert path == f"django.db.models.{kind}"
        assert not {"of", "encoder"} & set(kwargs)
