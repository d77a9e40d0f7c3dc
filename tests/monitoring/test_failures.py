"""Which jobs have failed since a time, in groups."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from pgonly_django.models import Job, State
from pgonly_django.monitoring import runs
from pgonly_django.monitoring.runs import failed_since
from pgonly_django.testing import drain
from tests.jobs.drained import end_by
from tests.queue.rows import HOUR, MINUTE, ago, make

pytestmark = pytest.mark.django_db


def failed(error="shop.Refused", task="shop.tasks.charge", at=MINUTE, **entry):
    entry = {"outcome": "failed", "exception": error, **entry}
    return make(state=State.FAILED, task=task, finished_at=ago(at), errors=[{"outcome": "retried"}, entry])


def groups(since=HOUR):
    found = failed_since("default", (timezone.now() - since).timestamp())
    return [(group.task, group.error, group.jobs.label) for group in found]


def test_failed_jobs_are_grouped_by_task_and_last_error_the_largest_group_first():
    (
        failed(),
        failed("shop.Late"),
        failed("shop.Late"),
        failed("shop.Late", task="shop.tasks.ship", at=HOUR / 2),
    )
    assert groups() == [
        ("shop.tasks.charge", "shop.Late", "2"),
        ("shop.tasks.charge", "shop.Refused", "1"),
        ("shop.tasks.ship", "shop.Late", "1"),
    ]


def test_only_those_that_failed_since_then_and_are_failed_still():
    failed(at=2 * HOUR)
    retried = failed()
    assert len(groups()) == 1
    Job.objects.filter(pk=retried.pk).retry()
    assert groups() == []
    assert len(groups(since=3 * HOUR)) == 1


def test_a_job_that_failed_exactly_then_is_seen_already():
    job = failed()
    (group,) = failed_since("default", 0.0)
    assert group.newest_at == pytest.approx(job.finished_at.timestamp(), abs=1e-5)
    assert group.newest_seconds == pytest.approx(60, abs=30)
    assert failed_since("default", group.newest_at) == []


def test_a_job_whose_worker_died_is_found_by_its_outcome():
    job = failed(None, outcome="crashed")
    assert groups() == [("shop.tasks.charge", "crashed", "1")]
    assert list(Job.objects.failed_with("crashed")) == [job]
    assert not Job.objects.failed_with("retried").exists()


def test_what_a_person_has_discarded_is_no_news():
    make(task="shop.tasks.charge")
    Job.objects.all().discard()
    assert groups() == []


def test_a_task_that_raised_discard_is_news():
    end_by.enqueue("discard")
    drain()
    assert groups() == [("tests.jobs.drained.end_by", "discarded", "1")]
    assert Job.objects.failed_with("discarded").exists()


@pytest.mark.parametrize("others", ["discarded", "failed"])
def test_many_jobs_of_one_task_hide_no_other_task(others):
    failed()
    spam = [
        Job(task="shop.tasks.spam", state=State.FAILED, finished_at=ago(MINUTE), errors=[{"outcome": others}])
        for _ in range(600)
    ]
    Job.objects.bulk_create(spam)
    assert ("shop.tasks.charge", "shop.Refused", "1") in groups()


def test_beyond_the_cap_the_numbers_say_that_there_are_more(monkeypatch):
    monkeypatch.setattr(
        runs,
        "FAILED_SINCE",
        runs.FAILED_SINCE.replace("LIMIT 500", "LIMIT 3"),
    )
    for _ in range(4):
        failed()
    assert groups() == [("shop.tasks.charge", "shop.Refused", "3+")]


def test_a_time_that_python_cannot_hold_is_left_out():
    job = failed(at=timedelta(0))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pgonly_job SET finished_at = 'infinity' WHERE id = %s", [job.pk])
    assert groups() == []
