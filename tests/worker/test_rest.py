"""A worker that has nothing to do rests: one connection, no statement; and yet no dead worker's job is left alone."""

from __future__ import annotations

import contextlib
import os
import random
import time
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.utils import timezone

from pgonly_django.cache import PostgresCache
from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, State
from pgonly_django.models import Worker as WorkerRow
from pgonly_django.queue.claim import Claim
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import WorkerState
from pgonly_django.worker.worker import WorkerLoop
from tests import jobs
from tests.queue.rows import HOUR, ago, fresh, make, make_running, make_worker
from tests.waiting import PATIENT, wait_for
from tests.worker.test_listener import cut

LEASE_SECONDS = 2
SECOND = timedelta(seconds=1)
BACKENDS = """
SELECT application_name, pid, query_start FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'pgonly %%'
    AND application_name NOT LIKE 'pgonly tests%%' AND NOT pid = ANY (%s) ORDER BY pid
"""
ALL_PIDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"

_pids_before: list[int] = []  # as of the pools, which keep theirs from test to test


@pytest.fixture(autouse=True)
def short_leases(settings, transactional_db):
    settings.PGONLY = {"LEASE_SECONDS": LEASE_SECONDS}
    with connection.cursor() as cursor:
        cursor.execute(ALL_PIDS)
        _pids_before[:] = [pid for (pid,) in cursor.fetchall()]


@pytest.fixture
def resting_worker(background_worker):
    def start(**options):
        worker = background_worker(**options)
        wait_until_resting(worker)
        return worker

    return start


@pytest.fixture
def dying_worker(transactional_db):
    """Claims by hand; it sends no heartbeat and writes no end."""
    worker = WorkerLoop(WorkerOptions(name="dying", queues=("of the dying",)))
    yield worker
    worker.database.close()


def claim_by(worker):
    (job,) = worker.exchanger.exchange([], [], Claim(1, {}, take_suspect=False)).jobs
    return job


def wait_until_resting(worker):
    wait_for(lambda: worker.status().state is WorkerState.RESTING, what="a rest")


def backends():
    with connection.cursor() as cursor:
        cursor.execute(BACKENDS, [_pids_before])
        return cursor.fetchall()


def some_time():
    """Longer than a lease: a worker that did not rest would have sent several statements."""
    until = time.monotonic() + LEASE_SECONDS + 0.5
    wait_for(lambda: time.monotonic() > until)


def test_at_rest_a_worker_has_one_connection_and_sends_no_statement(resting_worker):
    worker = resting_worker()
    wait_for(lambda: len(backends()) == 1)
    before = backends()
    assert before[0][0].startswith(f"pgonly worker {worker.id}")
    some_time()
    assert backends() == before


def count_connections():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return cursor.fetchone()[0]


def test_at_rest_what_jobs_have_opened_is_closed(background_worker, marks, monkeypatch):
    """Persistent connections of the slots' threads, and those of the cache and the limiters."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)
    before = count_connections()
    worker = background_worker(poll_seconds=600.0)
    waiting = [jobs.slow_count.enqueue(2, 0.0, f"k{number}") for number in range(4)]
    for result in waiting:
        result.wait(10)
    PostgresCache("kept open", {"OPTIONS": PATIENT}).set("key", "value")
    wait_until_resting(worker)
    wait_for(lambda: count_connections() <= before + 1)  # fewer where one of an earlier test had been closing
    assert jobs.slow_count.enqueue(1, 0.0, "k").wait(10).return_value == 1


def test_at_rest_the_pools_of_django_are_empty(pooled, background_worker, marks):
    before = count_connections()
    worker = background_worker(poll_seconds=600.0)
    jobs.slow_count.enqueue(2, 0.0, "k").wait(10)
    wait_until_resting(worker)
    wait_for(lambda: count_connections() <= before + 1)


def test_at_rest_a_worker_hears_that_it_shall_stop(resting_worker):
    worker, other = resting_worker(), resting_worker()
    WorkerRow.objects.filter(pk=worker.id).drain()
    assert worker.left.wait(10)
    assert other.rest.is_resting


def test_at_rest_a_worker_that_did_not_hear_it_learns_it_from_its_beat(resting_worker):
    worker = resting_worker(poll_seconds=1.0)
    WorkerRow.objects.filter(pk=worker.id).update(stop_requested_at=ago(HOUR))
    assert worker.left.wait(10)


def test_a_beat_at_rest_says_that_the_worker_lives(resting_worker):
    worker = resting_worker(poll_seconds=1.0)
    WorkerRow.objects.filter(pk=worker.id).update(heartbeat_at=ago(HOUR), running=5)
    row = wait_for(lambda: WorkerRow.objects.filter(pk=worker.id, heartbeat_at__gt=ago(HOUR / 2)).first())
    assert row.running == 0
    assert worker.rest.is_resting


def test_a_worker_whose_row_is_gone_makes_it_again_at_rest(resting_worker):
    worker = resting_worker(poll_seconds=1.0)
    WorkerRow.objects.all().delete()
    wait_for(lambda: WorkerRow.objects.filter(pk=worker.id).exists())


def test_at_rest_a_job_starts_at_once_and_then_the_worker_rests_again(resting_worker):
    worker = resting_worker(poll_seconds=600.0)
    assert jobs.add.enqueue(1, 2).wait(10).return_value == 3
    assert not worker.rest.is_resting
    wait_until_resting(worker)


def test_a_beat_finds_what_no_notify_has_told_of(resting_worker):
    worker = resting_worker(poll_seconds=1.0)
    ready, later = make(args=[1, 2]), make(state=State.SCHEDULED, run_at=ago(-HOUR / 1800), args=[1, 2])
    wait_for(lambda: fresh(ready).state == fresh(later).state == State.SUCCEEDED)
    wait_until_resting(worker)


def test_jobs_that_it_may_not_take_do_not_keep_it_awake(resting_worker):
    make(queue="of others")
    worker = resting_worker(queues=("default",), poll_seconds=0.5)
    some_time()
    assert worker.rest.is_resting


def test_a_worker_that_runs_a_job_keeps_the_others_awake(resting_worker, background_worker):
    worker = resting_worker()
    job = make_running(lease_expires_at=ago(-HOUR), queue="of others")
    with connect("default", application_name="pgonly tests") as line:
        notify.send(line, "holding somebody")
    wait_for(lambda: not worker.rest.is_resting)
    some_time()
    assert not worker.rest.is_resting
    job.delete()
    wait_until_resting(worker)


def test_a_job_that_another_worker_claims_and_leaves_is_rescued(resting_worker, dying_worker):
    resting_worker(poll_seconds=600.0, queues=("default",))
    job = make(queue="of the dying")
    claim_by(dying_worker)
    wait_for(lambda: fresh(job).state == State.READY)
    assert fresh(job).crashes == 1


def test_jobs_that_it_claims_one_after_the_other_are_rescued_too(resting_worker, dying_worker):
    """After the first it claims in silence. The resting one has heard of it, and stays awake."""
    worker = resting_worker(poll_seconds=600.0, queues=("default",))
    claim = [make(queue="of the dying") for _ in range(3)]
    for _ in claim:
        claim_by(dying_worker)
    assert dying_worker.database.claim_lock.is_held
    dying_worker.database.close()
    wait_for(lambda: all(fresh(job).state == State.READY for job in claim))
    wait_until_resting(worker)


def test_no_worker_rests_while_another_may_claim_in_silence(background_worker, dying_worker):
    worker = background_worker(queues=("default",))
    for _ in range(2):
        make(queue="of the dying")
        claim_by(dying_worker)
    Job.objects.all().delete()
    some_time()
    assert not worker.rest.is_resting
    dying_worker.database.close()
    wait_until_resting(worker)


def test_what_is_claimed_while_its_connection_is_lost_is_rescued(resting_worker, dying_worker):
    worker = resting_worker(poll_seconds=600.0, queues=("default",))
    job = make(queue="of the dying")
    cut()
    claim_by(dying_worker)
    wait_for(lambda: fresh(job).state == State.READY)
    wait_until_resting(worker)


def test_without_listen_a_worker_never_rests_and_lets_the_others_rest(background_worker, resting_worker):
    blind = background_worker(listen=False)
    for number in range(3):
        jobs.add.enqueue(number, 1).wait(10)
    resting_worker()
    assert not blind.rest.is_resting
    assert not blind.database.claim_lock.is_held


def test_two_workers_that_have_worked_both_rest(background_worker):
    both = [background_worker(), background_worker()]
    for number in range(6):
        jobs.add.enqueue(number, 1).wait(10)
    for worker in both:
        wait_until_resting(worker)


def test_the_first_beat_after_a_rest_comes_when_a_job_has_run_for_a_quarter_of_a_lease(resting_worker, marks):
    worker = resting_worker(poll_seconds=600.0)
    result = jobs.sleep_in_slices.enqueue("long", 30.0)
    wait_for(lambda: "long:started" in marks())
    wait_for(lambda: WorkerRow.objects.get(pk=worker.id).running == 1)
    assert result.cancel()


def test_beside_a_worker_that_does_not_tell_of_its_claims_no_worker_rests(background_worker):
    """As a worker of the version before, whose row lacks the column."""
    older = make_worker(silent_for=-HOUR, tells_claims=None)
    worker = background_worker()
    some_time()
    assert worker.status().state is WorkerState.READY
    WorkerRow.objects.filter(pk=older.pk).update(stopped_at=timezone.now())
    wait_until_resting(worker)


def test_a_worker_that_does_not_tell_and_is_silent_for_a_lease_keeps_no_other_from_resting(resting_worker):
    make_worker(silent_for=2 * LEASE_SECONDS * SECOND, tells_claims=None)
    resting_worker()


def test_at_its_beat_a_worker_sees_one_that_does_not_tell(resting_worker):
    """It was started later, as by a deploy of the version before."""
    worker = resting_worker(poll_seconds=0.5)
    older = make_worker(silent_for=-HOUR, tells_claims=None)
    wait_for(lambda: worker.status().state is WorkerState.READY, what="the end of the rest")
    WorkerRow.objects.filter(pk=older.pk).update(stopped_at=timezone.now())
    wait_until_resting(worker)


def test_where_no_further_connection_is_to_be_had_leases_are_renewed_all_the_same(resting_worker):
    """The server may have given away its last one while the worker rested."""
    resting_worker(poll_seconds=600.0)
    with no_more_connections():
        result = jobs.pause.enqueue(2.5 * LEASE_SECONDS)
        wait_for(lambda: result.job.state == State.RUNNING)
        lease = timedelta(seconds=LEASE_SECONDS)
        wait_for(
            lambda: (job := Job.objects.get(pk=result.id)).lease_expires_at > job.attempted_at + 1.4 * lease
        )
    assert result.wait(20).job.lease_epoch == 1


@contextlib.contextmanager
def no_more_connections():
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    connection.ensure_connection()
    with connection._nodb_cursor() as server:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            yield
        finally:
            server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_whenever_a_worker_dies_its_job_is_rescued(background_worker, transactional_db):
    """Before, while and after the other one begins to rest."""
    background_worker(poll_seconds=600.0, queues=("default",))
    for _ in range(int(os.environ.get("TEST_DEATHS", "3"))):
        until = time.monotonic() + random.uniform(0.0, 2.0 * LEASE_SECONDS)
        wait_for(lambda until=until: time.monotonic() > until)
        dying = WorkerLoop(WorkerOptions(name="dying", queues=("of the dying",)))
        claimed = [make(queue="of the dying") for _ in range(random.choice([1, 2, 3]))]
        for _ in claimed:
            claim_by(dying)
        dying.database.close_all()
        seconds = 1.25 * LEASE_SECONDS + 8.0  # a quarter of a lease behind its end, and a busy machine
        wait_for(lambda claimed=claimed: all(fresh(job).state == State.READY for job in claimed), seconds)
        Job.objects.all().delete()
