"""Workers at rest, as processes: frozen ones, a server that takes no NOTIFY, and six real minutes."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psycopg
import pytest
from django.db import connection

from pgonly_django.models import Job, State
from tests import jobs
from tests.process.conftest import AT_REST, server_of_its_own
from tests.waiting import wait_for

pytestmark = pytest.mark.process

BACKENDS = """
SELECT pid, query_start FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'pgonly %' AND pid <> pg_backend_pid()
"""
SIX_MINUTES = 360.0


def rows(query):
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


def test_a_worker_that_is_frozen_right_after_its_claim_is_found_by_one_at_rest(workers, marks):
    workers.start("--queues", "default", "--poll-seconds", "600")
    frozen = workers.start("--queues", "freezing", "--poll-seconds", "600")
    wait_for(lambda: rows(AT_REST) == [(2,)], what="both to rest")
    result = jobs.sleep_in_slices.using(queue_name="freezing").enqueue("k", 30.0)
    wait_for(lambda: Job.objects.filter(pk=result.id, state=State.RUNNING).exists())
    frozen.send(signal.SIGSTOP)
    wait_for(lambda: Job.objects.get(pk=result.id).crashes == 1, what="the rescue")
    frozen.send(signal.SIGCONT)
    wait_for(lambda: Job.objects.get(pk=result.id).lease_epoch == 2, what="the second run")


@pytest.fixture
def deaf_server():
    """A PostgreSQL whose queue for NOTIFY holds half a megabyte, and a way to fill it."""
    if connection.pg_version < 170000:
        pytest.skip("before PostgreSQL 17 the queue has 8 GB")
    with server_of_its_own(options=("max_notify_queue_pages=64",)) as server:
        yield server


def fill(server, stack):
    """A session that listens in a transaction which does not end keeps all that was sent since."""
    sleeper = stack.enter_context(psycopg.connect(server.url(), autocommit=True))
    sleeper.execute("LISTEN fill")
    sleeper.execute("BEGIN")
    sleeper.execute("SELECT 1")
    with (
        psycopg.connect(server.url(), autocommit=True) as sender,
        pytest.raises(psycopg.Error, match="NOTIFY"),
    ):
        for number in range(10_000):
            sender.execute("SELECT pg_notify('fill', %s)", [str(number) * 1000])


def test_where_the_server_takes_no_notify_jobs_run_all_the_same(workers, deaf_server):

    resting = workers.start("--queues", "others", ready=False, DATABASE_URL=deaf_server.url())
    wait_for(lambda: deaf_server.execute(AT_REST) == [(1,)], what="a rest")
    with contextlib.ExitStack() as stack:
        fill(deaf_server, stack)
        deaf_server.enqueue("tests.jobs.add", [1, 2])
        burst = workers.start("--burst", ready=False, DATABASE_URL=deaf_server.url())
        assert burst.wait() == 0
        assert deaf_server.count("succeeded") == 1
        assert burst.output.count("PostgreSQL takes no NOTIFY") == 1
    resting.send(signal.SIGTERM)
    assert resting.wait() == 0


@pytest.mark.skipif("TEST_SIX_MINUTES" not in os.environ, reason="takes eight minutes: set TEST_SIX_MINUTES")
@pytest.mark.timeout(900)
def test_six_minutes_without_a_job_are_one_connection_and_two_statements(workers):
    worker = workers.start(lease=60)
    jobs.add.enqueue(1, 2).wait(20)
    wait_for(lambda: rows(AT_REST) == [(1,)], 150, "a rest")
    wait_for(lambda: len(rows(BACKENDS)) == 1)
    seen, until = set(rows(BACKENDS)), time.monotonic() + SIX_MINUTES
    wait_for(lambda: seen.update(rows(BACKENDS)) or time.monotonic() > until, SIX_MINUTES + 10)
    assert len({pid for pid, _ in seen}) == 1
    assert len(seen) - 1 <= 2
    assert "ERROR" not in worker.output
