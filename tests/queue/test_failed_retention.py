from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Job, State
from pgonly_django.models.job_rows import CRASHES_ALLOWED
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.prune import prune
from pgonly_django.queue.rescue import rescue
from tests.queue.rows import DAY, HOUR, LEASE, ago, finish_of, fresh, make, make_running, make_worker, write
from tests.tasks.calls import add

NINETY = timedelta(days=90)


def fail_by_finish(server, **facts):
    job = make_running(**facts)
    write(server, finish_of(job, Outcome.FAILED, State.FAILED, entry="{}"))
    return fresh(job)


def fail_by_rescue(server, **facts):
    dead = make_worker(silent_for=HOUR)
    job = make_running(dead.pk, lease_expires_at=ago(HOUR), crashes=CRASHES_ALLOWED - 1, **facts)
    rescue(server, LEASE, timedelta(0))
    return fresh(job)


def fail_by_discard(server, **facts):
    job = make(**facts)
    Job.objects.filter(pk=job.pk).discard()
    return fresh(job)


def kept_for(job):
    assert job.state == State.FAILED
    return None if job.delete_after is None else round((job.delete_after - job.finished_at) / DAY)


@pytest.mark.sample(2)
@pytest.mark.parametrize("fail", [fail_by_finish, fail_by_rescue, fail_by_discard])
@pytest.mark.parametrize(
    ("retention", "failed_retention", "days"),
    [
        (timedelta(days=7), None, 90),
        (timedelta(days=200), None, 200),
        (None, None, None),
        (timedelta(days=7), timedelta(days=3), 3),
        (None, timedelta(days=3), 3),
        (timedelta(days=7), timedelta(days=36_501), None),
    ],
)
def test_a_failed_job_is_kept_for_90_days_or_as_long_as_its_options_say(
    server, fail, retention, failed_retention, days
):
    assert kept_for(fail(server, retention=retention, failed_retention=failed_retention)) == days


def test_other_ends_are_kept_for_the_retention(server):
    keep = {"retention": DAY, "failed_retention": NINETY}
    succeeded, cancelled = make_running(**keep), make_running(**keep)
    asked = {"cancel_requested_at": timezone.now(), "lease_expires_at": ago(HOUR)}
    rescued = make_running(make_worker(silent_for=HOUR).pk, **keep, **asked)
    write(server, finish_of(succeeded))
    write(server, finish_of(cancelled, Outcome.CANCELLED, State.CANCELLED, entry="{}"))
    rescue(server, LEASE, timedelta(0))
    for job in map(fresh, (succeeded, cancelled, rescued)):
        assert job.state != State.FAILED
        assert round((job.delete_after - job.finished_at) / DAY) == 1


def test_prune_leaves_a_failed_job_when_a_success_of_the_same_age_goes(server):
    failed, succeeded = fail_by_finish(server, retention=DAY), make_running(retention=DAY)
    write(server, finish_of(succeeded))
    for job in (failed, fresh(succeeded)):
        Job.objects.filter(pk=job.pk).update(delete_after=job.delete_after - timedelta(days=2))
    prune(server)
    assert list(Job.objects.all()) == [failed]


@pytest.mark.parametrize(
    ("option", "stored"),
    [
        ({}, None),
        ({"failed_retention": NINETY}, None),
        ({"failed_retention": DAY}, DAY),
        ({"failed_retention": None}, timedelta(days=36_501)),
    ],
)
def test_the_option_reaches_the_row(transactional_db, option, stored):
    assert add.using(**option).enqueue(1).job.failed_retention == stored
