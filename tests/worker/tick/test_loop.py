"""What a tick does besides running jobs, and what it costs."""

from __future__ import annotations

import os
import time

import pytest
from django.db import connection

from pgonly_django import Batch, task
from pgonly_django.models import Job, JobStats, Schedule, State, Tick, Worker
from pgonly_django.worker.tick import running
from tests import jobs
from tests.jobs import batching
from tests.queue.rows import make, make_running
from tests.waiting import wait_for


@task
def connections_of_ours(pids_before):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'pgonly %%' AND NOT pid = ANY (%s) ORDER BY 1",
            [pids_before],
        )
        return [name for (name,) in cursor.fetchall()]


def test_it_has_one_connection_and_its_job_another_one_that_bears_its_id(tick):
    with connection.cursor() as cursor:  # the pools keep theirs from test to test
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        result = connections_of_ours.enqueue([pid for (pid,) in cursor.fetchall()])
    tick()
    worker = Worker.objects.get()
    of_job, of_worker = result.job.result
    assert (of_job, of_worker) == (f"pgonly jobs {worker.id}", f"pgonly worker {worker.id} tick")


def test_other_threads_keep_the_names_of_their_connections(tick):
    jobs.add.enqueue(1)
    tick()
    assert "tick" not in connection.settings_dict["OPTIONS"].get("application_name", "")
    with connection.cursor() as cursor:
        cursor.execute("SHOW application_name")
        assert str(Worker.objects.get().id) not in cursor.fetchone()[0]


def test_it_leaves_its_counts_in_the_statistics(tick):
    jobs.add.enqueue(1)
    assert tick()["done"] == 1
    assert sum(JobStats.objects.filter(granularity="hour").values_list("succeeded", flat=True)) == 1


def test_it_closes_batches_and_runs_what_comes_after_them(tick, marks):
    batches = [Batch(on_finish=batching.note.bind(text)) for text in ("of its own", "of another")]
    batches[0].enqueue(batching.member, 1)
    batches[1].enqueue_many([])
    tick()
    assert sorted(marks()) == ["of another", "of its own"]


def test_it_does_not_spin_while_a_batch_is_open(tick, monkeypatch):
    turns, turn = [], running.TickLoop._turn
    monkeypatch.setattr(running.TickLoop, "_turn", lambda self: turns.append(1) or turn(self))
    batch = Batch()
    batch.enqueue(batching.member, 1, pause=1.0)
    make(state=State.SCHEDULED, batch_id=batch.id, run_at="2101-01-01T00:00Z")
    tick()
    assert batch.row.finished_at is None
    assert len(turns) < 60


def test_a_job_that_is_due_is_promoted(tick):
    job = make(state=State.SCHEDULED, run_at="2001-01-01T00:00Z", task="tests.jobs.add", args=[1])
    assert tick()["done"] == 1
    assert Job.objects.get(pk=job.pk).state == State.SUCCEEDED


def test_a_job_of_a_dead_worker_is_rescued(tick, settings):
    # No worker is declared dead in the half of a lease after the start of the server, which may be new.
    settings.PGONLY = {**settings.PGONLY, "LEASE_SECONDS": 2}
    job = make_running(task="tests.jobs.add", args=[1], lease_expires_at="2001-01-01T00:00Z")
    assert tick()["done"] == 1
    assert (Job.objects.get(pk=job.pk).state, Job.objects.get(pk=job.pk).crashes) == (State.SUCCEEDED, 0)


def test_a_schedule_that_is_due_ticks(tick, settings):
    settings.PGONLY = {
        **settings.PGONLY,
        "SCHEDULES": {"often": {"task": "tests.jobs.add", "every": 3600, "args": [1]}},
    }
    tick()
    assert Schedule.objects.filter(name="often").exists()
    Schedule.objects.update(next_at="2001-01-01T00:00Z")
    answer = tick()
    assert answer["done"] == 1
    assert 0 < answer["next_due_seconds"] <= 3600
    assert Tick.objects.count() == 1


@task(takes_context=True)
def lease_left_after(context, seconds):
    jobs.stay(seconds)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float FROM pgonly_job WHERE id = %s",
            [context.job_id],
        )
        return cursor.fetchone()[0]


@pytest.mark.slow
def test_a_lease_is_renewed_on_the_one_connection(tick, settings):
    settings.PGONLY = {**settings.PGONLY, "LEASE_SECONDS": 2}
    result = lease_left_after.enqueue(3.0)
    tick()
    assert (result.job.state, result.job.lease_epoch) == (State.SUCCEEDED, 1)
    assert result.job.result > 0


def test_maintenance_comes_with_the_first_tick_of_five_minutes(tick):
    old = make(state=State.SUCCEEDED, delete_after="2001-01-01T00:00Z")
    tick()
    assert not Job.objects.filter(pk=old.pk).exists()
    start = Worker.objects.get().started_at
    old = make(state=State.SUCCEEDED, delete_after="2001-01-01T00:00Z")
    tick()
    second = Worker.objects.order_by("started_at").last()
    is_same_part = start.timestamp() // 300 == second.started_at.timestamp() // 300
    assert Job.objects.filter(pk=old.pk).exists() == is_same_part
    Worker.objects.all().delete()
    tick()
    assert not Job.objects.filter(pk=old.pk).exists()


def test_dead_letters_of_its_failures_are_sent_and_run(tick, settings, marks):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": "tests.jobs.burying.note"}}}
    failing = jobs.fail.using(max_attempts=1, dead_letter_queue="dead").enqueue()
    began = time.monotonic()
    answer = tick(seconds=60.0)
    assert failing.job.state == State.FAILED
    assert answer["done"] == 2
    assert time.monotonic() - began < 30, "it waited for its time, although all was done"


def test_a_child_that_a_job_forks_leaves_the_job_to_its_parent(tick, marks):
    result = fork_and_return.enqueue()
    tick()
    assert (result.job.state, result.job.result) == (State.SUCCEEDED, "parent")


@task
def fork_and_return():
    pid = os.fork()
    if pid == 0:
        return "child"
    os.waitpid(pid, 0)
    return "parent"


def test_a_process_that_ends_amid_a_tick_gives_the_job_back(tick, marks):
    result = jobs.hold_on.enqueue("k")
    going = running.begin(20.0)
    wait_for(lambda: "k:started" in marks())
    running._release_at_exit()
    assert (result.job.state, result.job.attempt, result.job.interruptions) == (State.READY, 0, 1)
    assert going.answer.result()["released"] == 1


@pytest.mark.slow
def test_a_process_that_is_forked_amid_a_tick_may_run_its_own(tick, marks):
    jobs.hold_on.enqueue("k", 2.0)
    going = running.begin(20.0)
    wait_for(lambda: "k:started" in marks())
    pid = os.fork()
    if pid == 0:
        os._exit(0 if running._going is None and running._lock.acquire(blocking=False) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert going.answer.result(30)["done"] == 1
