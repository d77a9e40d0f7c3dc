"""Many jobs and many workers at once; the database restarted under them."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db import connection

from pgonly_django import enqueue_many
from pgonly_django.models import Job, State
from tests import jobs
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]

COUNT = 10_000


def test_ten_thousand_jobs_through_four_workers_run_exactly_once_each(workers, marks):
    before = deadlocks()  # of other tests
    enqueue_many([(jobs.mark_once, (str(i),)) for i in range(COUNT)])
    fleet = [
        workers.start("--burst", "--threads", "4", lease=60, ready=False, TEST_CONN_MAX_AGE="60")
        for _ in range(4)
    ]
    assert [worker.wait(120) for worker in fleet] == [0, 0, 0, 0]
    counts = Counter(marks())
    assert len(counts) == COUNT
    assert set(counts.values()) == {1}
    assert set(Job.objects.values_list("state", "attempt", "lease_epoch")) == {(State.SUCCEEDED, 1, 1)}
    assert not any("deadlock" in worker.output.lower() for worker in fleet)
    assert deadlocks() == before


def deadlocks():
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return cursor.fetchone()[0]


@pytest.mark.server
def test_a_crash_of_the_database_loses_no_job(own_server, workers):
    """`pg_ctl restart -m immediate` in the middle of 500 jobs."""
    workers.url = own_server.url()
    workers.start("--threads", "4", ready=False)
    workers.start("--threads", "4", ready=False)
    own_server.enqueue_pauses(500, 0.02)
    wait_for(lambda: own_server.count("succeeded") >= 100, what="a fifth of the jobs")
    own_server.restart("immediate")
    wait_for(lambda: own_server.count("succeeded") == 500, 90, "all jobs to succeed")
    assert own_server.count() == 500
    wait_for(lambda: any("PostgreSQL is back" in worker.output for worker in workers.started))
    assert all(worker.process.poll() is None for worker in workers.started)
