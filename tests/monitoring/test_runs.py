"""Counters of a day: they never fall before midnight, whatever the table loses or gains."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from pgonly_django.database.connect import connect
from pgonly_django.models import JobStats
from pgonly_django.models.job_stats import NUMBERS, STATS_KEPT
from pgonly_django.monitoring import runs as module
from pgonly_django.monitoring.runs import PAIRS_AT_MOST, runs_today
from pgonly_django.queue import stats as written

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


def midnight():
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def ended(starts_at=None, queue="default", task="a", granularity="hour", **counts):
    at = starts_at or midnight()
    JobStats.objects.create(granularity=granularity, starts_at=at, queue=queue, task=task, **counts)


def test_the_runs_of_today_are_added_up():
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    ended(succeeded=2, crashed=1, waiting_times=[1, 2], run_times=[0, 3])
    if hour > midnight():
        ended(hour, succeeded=3, failed=1, waiting_times=[0, 0, 4], run_times=[0, 1])
    ended(granularity="minute", succeeded=50)
    (found,) = runs_today("default").runs
    later = hour > midnight()
    assert (found.succeeded, found.failed, found.crashed) == (2 + 3 * later, 1 * later, 1)
    assert list(found.waiting_times[:4]) == [1, 2, 4 * later, 0]
    assert list(found.run_times[:3]) == [0, 3 + later, 0]
    assert len(found.run_times) == 64


def test_a_task_of_yesterday_has_zeros_so_that_its_first_run_is_an_increase():
    ended(midnight() - DAY / 2, succeeded=9, failed=9, run_times=[9])
    ended(midnight() - DAY * 1.5, task="older", succeeded=9)
    (found,) = runs_today("default").runs
    assert (found.task, found.succeeded, found.failed, sum(found.run_times)) == ("a", 0, 0, 0)


def test_without_statistics_there_is_nothing():
    assert runs_today("default") == ([], 0)


def test_beyond_the_cap_tasks_are_counted_together():
    JobStats.objects.bulk_create(
        JobStats(granularity="hour", starts_at=midnight(), queue="q", task=f"task {n}", succeeded=2)
        for n in range(10_000)
    )
    ended(queue="", task="", succeeded=5, failed=1), ended(queue="q", task="", succeeded=7)
    found, left_out = runs_today("default")
    assert len(found) == PAIRS_AT_MOST + 1
    assert {each.task for each in found[:-1]} == {f"task {n}" for n in range(PAIRS_AT_MOST)}
    others = found[-1]
    assert (others.queue, others.task, others.succeeded, others.failed) == ("", "", 2 * 9_900 + 12, 1)
    assert left_out == 9_902


def test_a_new_task_takes_no_place_of_another(monkeypatch):
    monkeypatch.setattr(module, "RUNS", re.sub(r"LIMIT 100\b", "LIMIT 2", module.RUNS))
    for task in ("m", "n", "z"):
        ended(task=task, succeeded=1)
    before = runs_today("default")
    ended(task="a", succeeded=100)
    after = runs_today("default")
    assert [each.task for each in before.runs] == [each.task for each in after.runs] == ["m", "n", ""]
    assert (before.runs[-1].succeeded, after.runs[-1].succeeded) == (1, 101)


def test_tasks_of_an_earlier_hour_come_first(monkeypatch):
    monkeypatch.setattr(module, "RUNS", re.sub(r"LIMIT 100\b", "LIMIT 2", module.RUNS))
    ended(task="a", succeeded=1), ended(task="b", succeeded=1)
    ended(midnight() - DAY / 24, task="z", succeeded=1)
    assert {each.task for each in runs_today("default").runs} == {"z", "a", ""}


def test_where_there_are_too_many_rows_the_others_are_not_counted(monkeypatch):
    """No number rather than one that falls: which rows would be read depends on what else is there."""
    sql = re.sub(r"LIMIT 100\b", "LIMIT 2", module.RUNS).replace("LIMIT 30001", "LIMIT 4")
    monkeypatch.setattr(module, "RUNS", sql)
    monkeypatch.setattr(module, "COUNTED_AT_MOST", 3)
    for task in "abc":
        ended(task=task, succeeded=1)
    assert [each.task for each in runs_today("default").runs] == ["a", "b", ""]
    ended(task="d", succeeded=1)
    found, left_out = runs_today("default")
    assert [(each.task, each.succeeded) for each in found] == [("a", 1), ("b", 1)]
    assert left_out == 2


@pytest.mark.django_db(transaction=True)
def test_what_is_pruned_is_older_than_what_is_counted():
    assert STATS_KEPT["hour"] > 2 * DAY
    ended(midnight() - STATS_KEPT["hour"] - DAY, succeeded=1), ended(succeeded=2)
    before = runs_today("default")
    with connect("default", application_name="tests") as server:
        assert written.prune(server) == 1
    assert runs_today("default") == before


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.lists(
        some.tuples(some.sampled_from("ab"), some.integers(0, 9), some.sampled_from(NUMBERS)),
        min_size=1,
        max_size=12,
    )
)
def test_no_number_falls_while_workers_write(ends):
    with transaction.atomic():
        seen = {}
        for task, count, name in ends:
            counts = written.RunCounts(
                queue="q", task=task, waiting_times=[0, count], run_times=[count], **{name: count}
            )
            _write(counts)
            for each in runs_today("default").runs:
                now = [*(getattr(each, name) for name in NUMBERS), *each.waiting_times, *each.run_times]
                before = seen.get(each.task, [0] * len(now))
                assert all(new >= old for new, old in zip(now, before, strict=True))
                seen[each.task] = now
        transaction.set_rollback(True)


def _write(counts):
    """As a worker does, but in the transaction of the test."""
    values = {name: f"{{{','.join(map(str, getattr(counts, name)))}}}" for name in written.TIME_ARRAYS}
    parameters = {
        **{name: [getattr(counts, name)] for name in ("queue", "task", *NUMBERS)},
        **{name: [value] for name, value in values.items()},
    }
    with connection.cursor() as cursor:
        cursor.execute(written.ADD, parameters)
