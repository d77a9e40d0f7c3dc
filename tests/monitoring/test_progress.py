"""How fast a job goes, and how long it still takes."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from pgonly_django import Batch, testing
from pgonly_django.models import Job, State
from pgonly_django.monitoring import progress
from pgonly_django.monitoring.progress import job_progress
from tests import jobs
from tests.queue.rows import make_gathering

NOW = timezone.now()
MINUTE = timedelta(minutes=1)


def running(progress, began=10 * MINUTE, reported=timedelta(0), **fields):
    at = None if reported is None else NOW - reported
    given = {"state": State.RUNNING, "attempted_at": NOW - began, "reported_at": at, **fields}
    read = Job._meta.get_field("progress").from_db_value(json.dumps(progress), None, None)
    return job_progress(Job(progress=read, **given), NOW)


def test_the_speed_is_that_of_the_run_and_says_how_long_it_takes():
    progress = running({"done": 200, "total": 1000})
    assert (progress.percent, progress.per_minute, progress.left) == (20, 20, 40 * MINUTE)
    assert running({"done": 1, "total": 1e12}).left is None, "years are not foretold"


def test_a_run_that_resumed_counts_from_where_it_began_and_a_second_loop_from_when():
    progress = running({"done": 800, "total": 1000, "since": {"done": 700, "seconds": 0}})
    assert (progress.percent, progress.per_minute, progress.left) == (80, 10, 20 * MINUTE)
    progress = running({"done": 50, "total": 100, "since": {"done": 0, "seconds": 300}})
    assert (progress.per_minute, progress.left) == (10, 5 * MINUTE)


def test_between_two_reports_the_speed_stays_and_the_time_runs_off():
    progress = running({"done": 100, "total": 200}, began=11 * MINUTE, reported=MINUTE)
    assert (progress.per_minute, progress.left) == (10, 9 * MINUTE)
    late = running({"done": 100, "total": 101}, began=11 * MINUTE, reported=MINUTE)
    assert late.left == timedelta(0)


def test_a_worker_that_does_not_say_when_it_reported_is_measured_until_now():
    assert running({"done": 100, "total": 200}, reported=None).per_minute == 10
    assert running({"done": 100, "total": 200}, reported=20 * MINUTE).per_minute == 10, "of an earlier run"


@pytest.mark.parametrize(
    ("progress", "fields"),
    [
        ({"done": 0, "total": 10}, {}),
        ({"done": 5, "total": 10}, {"began": timedelta(seconds=1)}),
        ({"done": 5, "total": 10}, {"state": State.SUCCEEDED}),
        ({"done": 5, "total": 10}, {"attempted_at": None}),
        ({"done": 5, "total": 10, "since": {"done": 5, "seconds": 0}}, {}),
        ({"message": "x"}, {}),
        (None, {}),
    ],
)
def test_where_nothing_can_be_measured_there_is_no_speed(progress, fields):
    told = running(progress, **fields)
    assert (told.per_minute, told.left) == (None, None)


@pytest.mark.parametrize(
    ("done", "total", "percent"),
    [(0, 10, 0), (999, 1000, 99), (15, 10, 100), (-5, 10, 0), (5, 0, None), (5, None, None), (1e308, 10, None)],
)  # fmt: skip
def test_a_percentage_is_whole_and_never_beyond_its_bounds(done, total, percent):
    assert running({"done": done, "total": total}).percent == percent


@pytest.mark.django_db
def test_a_job_that_resumes_notes_from_where_it_counts_and_its_result_does_not_tell():
    result = jobs.count_to.enqueue(3)
    Job.objects.update(lease_epoch=1)
    from pgonly_django.models import Checkpoint

    Checkpoint.objects.create(job=result.job, value=None, positions={"items": 2})
    testing.drain()
    assert result.job.progress["since"]["done"] == 2
    assert result.progress == {"done": 3, "total": 3, "message": ""}


# Batches.


def slowly(execute, sql, *rest):
    return execute(
        f"SELECT pg_sleep(5), it.* FROM ({sql}) AS it" if "GROUP BY batch_id" in sql else sql, *rest
    )


@pytest.mark.django_db
def test_a_page_does_not_wait_for_a_batch_that_takes_long_to_count(monkeypatch):
    monkeypatch.setattr(progress, "PAGE_LIMIT", timedelta(milliseconds=50))
    batch = make_gathering(succeeded=2, failed=1, ready=1)
    ids = {str(batch.pk)}
    with connection.execute_wrapper(slowly):
        assert progress.progress_for_page("default", ids) == {}
    assert progress.progress_for_page("default", ids) == {}, "the next pages do not try at once"
    whole = progress.progress_of(batch)
    assert (whole.words, whole.percent) == ("3 of 4 ended, 1 failed", 75)
    assert progress.progress_for_page("default", ids) == {str(batch.pk): whole}
    assert progress.progress_of(Batch.get(batch.pk.hex)) == whole


@pytest.mark.django_db
def test_many_batches_are_counted_by_one_statement_and_kept_for_a_moment(django_assert_num_queries):
    batches = [make_gathering(succeeded=number, cancelled=1) for number in (1, 2)]
    ids = {str(batch.pk) for batch in batches}
    with django_assert_num_queries(5):  # a savepoint with the limit around it
        found = progress.progress_for_page("default", ids)
    assert {each.words for each in found.values()} == {f"{n} of {n} ended, 1 cancelled" for n in (2, 3)}
