"""The counts of runs: in memory, and written on a connection that is there already."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from psycopg import OperationalError

from pgonly_django.context.run import Run
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, JobStats, State
from pgonly_django.models.job_stats import BOUNDS, NUMBERS
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.finish import Finish
from pgonly_django.worker import run_counter
from pgonly_django.worker.ending import EndedRun, never_started
from pgonly_django.worker.run_counter import NAMED, ROWS, RunCounter
from tests import jobs
from tests.queue.rows import HOUR, ago, claim, claimer, fresh, make, make_running, make_worker
from tests.waiting import wait_for


def totals(**of):
    """Over all hours: the numbers that are not 0, the runs in each histogram."""
    rows = list(JobStats.objects.filter(granularity="hour", **of))
    sums = {name: sum(getattr(row, name) for row in rows) for name in NUMBERS}
    sums |= {
        name: sum(map(sum, (getattr(row, name) for row in rows))) for name in ("waiting_times", "run_times")
    }
    return {name: number for name, number in sums.items() if number}


@pytest.fixture
def ended(server):
    """Makes the end of a run of a new job."""

    def end(finish=None, *, started=True, **facts):
        make(**facts)
        (job,) = claim(server, claimer())
        run = Run(job, "default", claimed_at=time.monotonic(), lease_until=float("inf"))
        run.started_at = run.claimed_at if started else None
        given = finish or Finish(job.id, job.lease_epoch, Outcome.SUCCEEDED, State.SUCCEEDED)
        return EndedRun(run, given, took_seconds=2.0)

    return end


@pytest.fixture
def stats():
    return RunCounter()


def count(stats, *ends):
    for end in ends:
        stats.note(end)
    stats.count()


def finish(outcome, state):
    return Finish("id", 1, outcome, state)


def test_the_ends_of_a_burst_are_in_the_present_hour_and_minute(work):
    for number in range(3):
        jobs.add.enqueue(number)
    jobs.add.using(queue_name="mail").enqueue("not a number")
    work(max_jobs=4)  # the next attempt may be due before a burst ends
    assert totals(queue="default") == {"succeeded": 3, "waiting_times": 3, "run_times": 3}
    assert totals(queue="mail") == {"retried": 1, "waiting_times": 1, "run_times": 1}
    of_minutes = JobStats.objects.filter(granularity="minute", queue="default")
    assert sum(row.succeeded for row in of_minutes) == 3
    assert set(JobStats.objects.values_list("task", flat=True)) == {"tests.jobs.add"}


def test_nothing_is_written_where_no_run_has_ended(run_jobs):
    make(state=State.SUCCEEDED)
    run_jobs()
    assert not JobStats.objects.exists()


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (finish(Outcome.SUCCEEDED, State.SUCCEEDED), {"succeeded": 1, "waiting_times": 1, "run_times": 1}),
        (finish(Outcome.FAILED, State.FAILED), {"failed": 1, "waiting_times": 1, "run_times": 1}),
        (finish(Outcome.DISCARDED, State.FAILED), {"failed": 1, "waiting_times": 1, "run_times": 1}),
        (finish(Outcome.FAILED, State.SCHEDULED), {"retried": 1, "waiting_times": 1, "run_times": 1}),
        (finish(Outcome.RETRIED, State.READY), {"retried": 1, "waiting_times": 1, "run_times": 1}),
        (finish(Outcome.TIMED_OUT, State.SCHEDULED), {"retried": 1, "waiting_times": 1, "run_times": 1}),
        (finish(Outcome.RELEASED, State.READY), {"interrupted": 1, "waiting_times": 1}),
        (finish(Outcome.FAILED, State.CANCELLED), {}),
        (finish(Outcome.RELEASED, State.CANCELLED), {}),
        (finish(Outcome.SNOOZED, State.SCHEDULED), {}),
        (finish(Outcome.HELD, State.HELD), {}),
        (finish(Outcome.POSTPONED, State.SCHEDULED), {}),
    ],
)
def test_each_end_counts_as_what_it_is(stats, ended, server, end, expected):
    count(stats, ended(end))
    stats.write(server)
    assert totals() == expected


def test_a_run_that_never_began_or_was_lost_does_not_count(stats, ended, server):
    count(stats, ended(never_started("id", 1), started=False))
    count(stats, EndedRun(ended().run, None))
    stats.write(server)
    assert not JobStats.objects.exists()


def test_waiting_counts_from_ready_to_the_start_of_the_run_and_the_run_from_there(stats, ended, server):
    late = ended(ready_at=ago(HOUR))
    late.run.started_at += 600  # claimed ahead
    count(stats, late)
    stats.write(server)
    row = JobStats.objects.get(granularity="hour")
    (waited,) = [number for number, count in enumerate(row.waiting_times) if count]
    (ran,) = [number for number, count in enumerate(row.run_times) if count]
    assert BOUNDS[waited - 1] < 4200 <= BOUNDS[waited]
    assert BOUNDS[ran - 1] < 2 <= BOUNDS[ran]


def test_a_time_beyond_all_bounds_and_one_below_nought_count_too(stats, ended, server):
    count(stats, ended(ready_at=ago(timedelta(days=400))))
    count(stats, ended(ready_at=ago(-HOUR)))
    stats.write(server)
    row = JobStats.objects.get(granularity="hour")
    assert (row.waiting_times[0], row.waiting_times[-1], len(row.waiting_times)) == (1, 1, len(BOUNDS))


def test_names_without_bound_make_no_statement_without_bound(stats, ended, server):
    end = ended()
    for number in range(1000):
        end.run.job = end.run.job._replace(queue=f"tenant {number % 700}", task=f"tasks.t{number}")
        count(stats, end)
    stats.write(server)
    rows = JobStats.objects.filter(granularity="hour")
    assert sum(row.succeeded for row in rows) == 1000
    assert len(rows) == ROWS + 1
    assert sum(row.task == "" for row in rows) == ROWS + 1 - NAMED
    assert {row.queue for row in rows if row.task == ""} >= {"", "tenant 450"}


def test_what_a_locked_table_refuses_is_written_with_the_next(stats, ended, server, other, caplog):
    server.execute("SET lock_timeout = '50ms'")
    for _ in range(3):
        with other.transaction():
            other.execute("LOCK TABLE pgonly_job_stats")
            count(stats, ended())
            assert not stats.write(server)
    assert (
        "The statistics of jobs could not be written: canceling statement due to lock timeout" in caplog.text
    )
    count(stats, ended())
    assert stats.write(server)
    assert totals() == {"succeeded": 4, "waiting_times": 4, "run_times": 4}


def test_what_fails_twice_is_dropped(stats, ended, server, other):
    """A table that takes no rows must not be asked for ever with the same ones."""
    count(stats, ended())
    other.execute("ALTER TABLE pgonly_job_stats ADD CONSTRAINT tests_none CHECK (succeeded = 0)")
    try:
        assert not stats.write(server)
        assert not stats.write(server)
    finally:
        other.execute("ALTER TABLE pgonly_job_stats DROP CONSTRAINT tests_none")
    assert stats.write(server)
    assert not JobStats.objects.exists()


def test_a_lost_connection_loses_no_counts(stats, ended, server):
    with connect("default", application_name="pgonly tests") as broken:
        pass
    assert stats.write(broken)  # nothing was counted: nothing is sent
    count(stats, ended())
    for _ in range(3):
        with pytest.raises(OperationalError):
            stats.write(broken)
    stats.write(server)
    assert totals() == {"succeeded": 1, "waiting_times": 1, "run_times": 1}


def test_a_heartbeat_writes_when_the_last_time_is_long_enough_ago(work, server, ended):
    worker = work()
    count(worker.stats, ended())
    worker.heartbeat.beat(server)
    assert not JobStats.objects.exists()
    worker.stats._written_at -= run_counter.WRITE_SECONDS
    worker.heartbeat.beat(server)
    assert totals()["succeeded"] == 1


def test_a_beat_is_complete_whatever_becomes_of_the_statistics(work, server, other, ended):
    worker = work()
    count(worker.stats, ended())
    worker.stats._written_at -= run_counter.WRITE_SECONDS
    server.execute("SET lock_timeout = '50ms'")
    with other.transaction():
        other.execute("LOCK TABLE pgonly_job_stats")
        worker.heartbeat.beat(server)
        assert worker.heartbeat.beat(server)


def test_a_worker_with_a_long_lease_writes_between_its_beats(background_worker, settings, monkeypatch):
    monkeypatch.setattr(run_counter, "WRITE_SECONDS", 0.05)
    settings.PGONLY = {"LEASE_SECONDS": 3600}
    background_worker()
    jobs.add.enqueue(1)
    wait_for(lambda: totals().get("succeeded") == 1, what="the counts")


def test_an_error_in_the_statistics_ends_no_heartbeats(background_worker, settings, monkeypatch):
    monkeypatch.setattr(run_counter, "WRITE_SECONDS", 0.05)
    settings.PGONLY = {"LEASE_SECONDS": 3600}
    worker = background_worker()
    wait_for(lambda: worker.heartbeat._beat_at > time.monotonic(), what="the first beat")

    def write(_connection):
        if threading.current_thread() is worker.heartbeat:
            raise MemoryError

    monkeypatch.setattr(worker.stats, "write", write)
    wait_for(lambda: worker.heartbeat.database.is_away, what="the error")
    assert worker.heartbeat.is_alive()


def test_a_worker_writes_before_it_sleeps(background_worker):
    worker = background_worker()
    result = jobs.add.enqueue(1)
    wait_for(lambda: worker.following.jobs_done == 1, what="the job to end")
    assert fresh(result.job).state == State.SUCCEEDED
    assert not JobStats.objects.exists()
    worker.heartbeat.sleep()
    wait_for(JobStats.objects.exists, what="the counts")


def test_a_planned_stop_counts_as_an_interruption(background_worker, marks):
    worker = background_worker(grace_seconds=0.1)
    jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: marks() == ["k:started"], what="the job to start")
    worker.stop()
    assert worker.left.wait(10)
    assert totals() == {"interrupted": 1, "waiting_times": 1}


def test_a_rescue_counts_deaths_and_what_has_failed_by_them(work, server, settings):
    settings.PGONLY = {"LEASE_SECONDS": 2}  # the server itself has to have been up for half of it
    dead = make_worker(silent_for=HOUR)
    for crashes in (0, 0, 2):
        make_running(dead.id, lease_expires_at=ago(HOUR), crashes=crashes, queue="nowhere")
    stopped = make_worker(silent_for=HOUR, stopped_at=ago(HOUR))
    make_running(stopped.id, lease_expires_at=ago(HOUR), queue="nowhere")
    worker = work(queues=("elsewhere",))
    worker.heartbeat.beat(server)
    worker.stats.write(server)
    assert set(Job.objects.values_list("state", flat=True)) == {State.READY, State.FAILED}
    assert totals() == {"failed": 1, "crashed": 3, "interrupted": 1}
