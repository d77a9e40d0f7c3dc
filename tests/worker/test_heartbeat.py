"""What a beat does besides renewing: find claims that it does not know, rescue, wake."""

from __future__ import annotations

import platform
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from pgonly_django.context.run import Run
from pgonly_django.database import notify
from pgonly_django.database.connect import connect, connection_params
from pgonly_django.models import Job, State
from pgonly_django.models import Worker as WorkerRow
from pgonly_django.outcomes import Outcome
from pgonly_django.queue import liveness
from pgonly_django.worker import heartbeat
from pgonly_django.worker.inbox import Notification, UnknownClaim
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from tests import activity, jobs
from tests.queue.rows import HOUR, ago, claim, fresh, make, make_running, make_worker
from tests.queue.rows import claimer as make_claimer
from tests.waiting import wait_for

LEASE = timedelta(seconds=2)


@pytest.fixture
def worker(transactional_db, settings):
    settings.PGONLY = {
        "LEASE_SECONDS": LEASE.total_seconds()
    }  # the server itself has to have been up for half of it
    made = WorkerLoop(WorkerOptions(name="beating"))
    yield made
    made.heartbeat.end()
    if made.heartbeat.ident is not None:
        made.heartbeat.join(10)


@pytest.fixture
def beat(worker, server):
    """Let the worker, which has registered, beat once."""
    worker.heartbeat.register(server)
    return lambda: worker.heartbeat.beat(server)


@pytest.fixture
def held(worker, server):
    """Makes runs of jobs that the worker has claimed."""

    def hold(count):
        for _ in range(count):
            make()
        claimed = claim(server, make_claimer(worker_id=worker.id))
        runs = [Run(job, "default", claimed_at=0.0, lease_until=0.0) for job in claimed]
        worker.in_flight.hold(runs)
        return runs

    return hold


def test_a_row_in_its_name_that_it_does_not_know_twice_goes_back(worker, beat):
    """A claim whose answer was lost. Once unknown, it may be on its way here."""
    job = make_running(worker.id)
    beat()
    assert worker.inbox.take(10, 0) == []
    beat()
    (message,) = worker.inbox.take(10, 0)
    assert message == UnknownClaim(str(job.id), job.lease_epoch)
    worker.in_flight.release_unknown(message)
    assert [finish.outcome for finish in worker.in_flight.finishes(0.0)] == [Outcome.RELEASED]


def test_the_row_says_which_python_and_release_run_and_its_memory_once_a_minute(
    worker, beat, server, settings, monkeypatch
):
    settings.PGONLY = {**settings.PGONLY, "RELEASE": "3f2a91c"}
    WorkerRow.objects.all().delete()
    worker.heartbeat.register(server)
    megabytes = iter(range(100, 200))
    monkeypatch.setattr(heartbeat, "own_rss_mb", lambda: float(next(megabytes)))
    seconds = time.monotonic()
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: seconds)
    for _ in range(70):
        beat(), beat()
        seconds += heartbeat.SAMPLE_SECONDS
    row = WorkerRow.objects.get(pk=worker.id)
    assert (row.python, row.release) == (platform.python_version(), "3f2a91c")
    assert row.memory_mb == list(range(110, 170))


def test_a_rescue_wakes_the_other_workers_and_its_own(worker, beat, other):
    job = orphan(queue="mail")
    other.execute(f"LISTEN {notify.CHANNEL}")
    beat()
    assert fresh(job).state == State.READY
    other.execute("SELECT 1")
    assert [notify.payload for notify in other.notifies(timeout=0)] == ["limited *", "ready mail"]
    assert worker.inbox.take(10, 0) == [Notification("limited", "*"), Notification("ready", "mail")]


def test_a_worker_whose_row_is_locked_says_so_renews_all_the_same_and_can_register(
    worker, beat, server, other
):
    assert beat()
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("SELECT FROM pgonly_worker WHERE id = %s FOR UPDATE", [worker.id])
        assert not beat()
        worker.heartbeat.register(server)
    assert beat()
    assert WorkerRow.objects.filter(pk=worker.id).count() == 1


def test_it_does_not_fall_asleep_in_the_middle_of_a_beat(worker, beat, monkeypatch):
    heartbeat, said = worker.heartbeat, []
    write = liveness.heartbeat
    monkeypatch.setattr(liveness, "heartbeat", lambda *args: said.append(heartbeat.sleep()) or write(*args))
    beat()
    assert said == [False]
    assert heartbeat.sleep()


def test_a_job_that_a_frozen_worker_holds_in_its_transaction_is_rescued(beat, caplog):
    job = orphan()
    with connect("default", application_name=f"pgonly jobs {job.worker_id}") as frozen:
        frozen.execute("BEGIN")
        frozen.execute("SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [job.id])
        beat()
        with pytest.raises(psycopg.OperationalError):
            frozen.execute("COMMIT")
    assert fresh(job).state == State.READY
    assert f"Ended the transaction that the dead worker {job.worker_id} had open" in caplog.text


def orphan(**facts):
    return make_running(make_worker(silent_for=HOUR).id, lease_expires_at=ago(HOUR), **facts)


def test_a_beat_tells_the_runs_whose_leases_it_has_renewed_and_no_others(worker, beat, held, other):
    """Or their paid steps would wait for the lease without end."""
    renewed, locked = held(2)
    with other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [locked.job.id])
        began = time.monotonic()
        beat()
    lease_seconds = worker.options.lease_for.total_seconds()
    assert began <= renewed.lease_until - lease_seconds <= time.monotonic()
    assert (locked.lease_until, locked.lease_lost) == (0.0, False)


def test_a_beat_tells_a_run_that_its_job_is_to_be_cancelled(beat, held):
    """Whether or not the NOTIFY of it has been heard."""
    unwanted, wanted = held(2)
    Job.objects.filter(pk=unwanted.job.id).update(cancel_requested_at=ago(HOUR))
    beat()
    assert (unwanted.cancel_requested, wanted.cancel_requested) == (True, False)


def test_a_worker_says_that_it_lives_while_the_table_of_jobs_is_locked_against_writing(
    worker, beat, held, server, other
):
    """As by CREATE INDEX. A worker that holds nothing would find it dead, and end its transactions."""
    (run,) = held(1)
    WorkerRow.objects.filter(pk=worker.id).update(heartbeat_at=ago(HOUR))
    server.execute("SET lock_timeout = '100ms'")
    with other.transaction():
        other.execute("LOCK TABLE pgonly_job IN SHARE MODE")
        assert not beat()
        assert WorkerRow.objects.get(pk=worker.id).heartbeat_at > ago(HOUR / 2)
    assert not run.lease_lost
    assert beat()


@pytest.mark.slow
def test_no_worker_is_declared_dead_right_after_a_beat_that_failed(worker, other, caplog, settings):
    """What made it fail, a table that was locked for long, may have kept all others from theirs."""
    settings.PGONLY = {"LEASE_SECONDS": 10}  # beats fail more often than every half of it
    job = orphan()
    with other.transaction():
        other.execute("LOCK TABLE pgonly_job")
        worker.heartbeat.start()
        wait_for(lambda: "Heartbeat: " in caplog.text)
        WorkerRow.objects.filter(pk=worker.id).update(heartbeat_at=ago(HOUR))
    wait_for(lambda: WorkerRow.objects.get(pk=worker.id).heartbeat_at > ago(HOUR / 2))
    assert fresh(job).state == State.RUNNING
    wait_for(lambda: fresh(job).state == State.READY)


@pytest.fixture
def roles(server):
    """Two that may use the tables, and a third that is a member of the first."""
    first, second, third = (f"pgonly_test_{uuid4().hex[:8]}" for _ in range(3))
    for role in (first, second):
        server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data, pg_write_all_data")
    server.execute(
        f"CREATE ROLE {third} IN ROLE {first}, pg_read_all_data, pg_write_all_data, pg_read_all_stats"
    )
    yield first, second, third
    server.execute("RESET ROLE")
    server.execute(f"DROP ROLE {first}, {second}, {third}")


@contextmanager
def holding(job, role):
    """A frozen worker's connection as that role, with the job's row locked in an open transaction."""
    params = connection_params("default", application_name=f"pgonly jobs {job.worker_id}")
    with psycopg.connect(**{**params, "user": role, "password": "x"}) as frozen:
        frozen.execute("SELECT FROM pgonly_job WHERE id = %s FOR KEY SHARE", [job.id])
        yield
        frozen.close()


def test_where_it_may_not_end_a_transaction_it_says_so_once_and_ends_the_others(beat, server, caplog, roles):
    """A second database of the project's may have another user."""
    first, second, third = roles
    ours, theirs = orphan(), orphan()
    with holding(theirs, second), holding(ours, first):
        server.execute(f"SET ROLE {third}")
        beat(), beat()
    assert caplog.text.count("Transactions of dead workers under another role keep their locks") == 1
    assert (fresh(ours).state, fresh(theirs).state) == (State.READY, State.RUNNING)


def test_a_worker_that_stops_before_its_first_heartbeat_is_seen_as_stopped(transactional_db):
    worker = WorkerLoop(WorkerOptions(burst=True))
    worker.heartbeat.end()  # so that its thread ends before it has connected
    worker.run()
    assert WorkerRow.objects.get(pk=worker.id).stopped_at is not None


@pytest.mark.slow
def test_an_idle_worker_beats_each_quarter_of_a_lease_and_does_not_look_for_jobs(background_worker, settings):
    settings.PGONLY = {"LEASE_SECONDS": LEASE.total_seconds()}
    before = activity.pids()
    worker = background_worker(poll_seconds=600.0)

    def statements():
        """When the main loop has sent its last one."""
        return [
            at for name, _, at in activity.backends(before) if name.startswith(f"pgonly worker {worker.id}")
        ]

    plan = worker.plan
    wait_for(lambda: plan.ordinary.is_drained)
    wait_for(lambda: plan.ordinary.next_at(1) > time.monotonic() + 20)
    wait_for(lambda: plan.promotion.due_at > time.monotonic() + 15)
    wait_for(lambda: plan.limited.next_at(4) > time.monotonic() + 15)
    last, beats = statements(), set()
    until = time.monotonic() + 2 * LEASE.total_seconds()
    wait_for(lambda: beats.add(WorkerRow.objects.get(pk=worker.id).heartbeat_at) or time.monotonic() > until)
    assert len(beats) >= 5
    assert statements() == last


@pytest.mark.slow
def test_where_no_further_connection_is_to_be_had_leases_are_renewed_all_the_same(
    background_worker, settings
):
    """The server may have as many as it takes. The main loop beats then."""
    settings.PGONLY = {"LEASE_SECONDS": LEASE.total_seconds()}
    worker = background_worker(poll_seconds=600.0)
    with activity.no_more_connections():
        activity.end(f"application_name LIKE 'pgonly heartbeat {worker.id}%'")
        result = jobs.pause.enqueue(2.5 * LEASE.total_seconds())
        wait_for(lambda: result.job.state == State.RUNNING)
        wait_for(
            lambda: (job := Job.objects.get(pk=result.id)).lease_expires_at > job.attempted_at + 1.4 * LEASE
        )
    assert result.wait(20).job.lease_epoch == 1


@pytest.mark.slow
def test_no_worker_is_declared_dead_by_a_beat_that_hung(beat, other):
    job = orphan()
    hanging = threading.Thread(target=beat)
    with other.transaction():
        other.execute("LOCK TABLE pgonly_job")
        began = time.monotonic()
        hanging.start()
        wait_for(lambda: time.monotonic() > began + 1.5)  # more than half a lease
    hanging.join(10)
    assert not hanging.is_alive()
    assert fresh(job).state == State.RUNNING


def test_a_worker_back_from_a_long_silence_declares_no_other_dead_at_once(worker, beat):
    first, rescue = orphan(), worker.heartbeat.rescue
    beat()
    assert fresh(first).state == State.READY
    second = orphan()
    rescue._contact_at -= LEASE.total_seconds()
    beat()
    assert fresh(second).state == State.RUNNING
    rescue._settled_at -= LEASE.total_seconds()
    beat()
    assert fresh(second).state == State.READY
