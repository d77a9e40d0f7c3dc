"""`runworker --max-seconds`: real processes that end by themselves."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

import pytest

from pgonly_django.models import State
from tests import activity, jobs
from tests.jobs import timed
from tests.waiting import wait_for

pytestmark = pytest.mark.process
# A process needs one to three of these seconds for its start, and the steps of the job seven.
ENDS = ("--max-seconds", "8", "--grace-seconds", "1")


def pid_of_main_connection(worker):
    return next(iter(activity.pids(f"application_name LIKE 'pgonly worker % {worker.name}'")), None)


@contextmanager
def frozen(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_job_of_paid_steps_ends_over_several_processes_and_pays_each_once(workers, marks):
    result = timed.pay_in_turn.enqueue("k", 70, 0.1)
    for _ in range(20):
        worker = workers.start("--burst", "--threads", "1", *ENDS, ready=False)
        assert worker.wait(30) == 0, worker.output
        if result.job.state == State.SUCCEEDED:
            break
    assert len(workers.started) > 1
    assert marks() == [f"k:{n}" for n in range(70)]
    job = result.job
    assert (job.state, job.attempt, job.crashes) == (State.SUCCEEDED, 1, 0)
    assert job.interruptions == len(workers.started) - 1


@pytest.mark.slow
def test_a_process_whose_database_does_not_answer_ends_all_the_same(workers):
    worker = workers.start("--max-seconds", "10", lease=60)
    with frozen(wait_for(lambda: pid_of_main_connection(worker))):
        assert worker.wait(30) == 1
    assert "did not end in time" in worker.output


def test_a_stop_ends_while_the_database_does_not_answer(workers, marks):
    worker = workers.start("--grace-seconds", "1", lease=60)
    jobs.hold_on.enqueue("k")
    wait_for(lambda: "k:started" in marks(), what="the start")
    with frozen(pid_of_main_connection(worker)):
        worker.send(signal.SIGTERM)
        assert worker.wait(20) == 1
    assert "did not end in time" in worker.output


@pytest.mark.slow
def test_a_supervisor_ends_with_its_workers_and_their_jobs_go_back(workers, marks):
    result = jobs.hold_on.enqueue("k")
    worker = workers.start("--processes", "2", "--max-seconds", "20", ready=False)
    assert worker.wait(60) == 0, worker.output
    job = result.job
    assert (job.state, job.attempt, job.crashes, job.interruptions) == (State.READY, 0, 0, 1)


@pytest.mark.slow
def test_the_seconds_count_from_the_start_of_the_process(workers):
    worker = workers.start("--max-seconds", "1", ready=False, shell='sleep 1; exec "$@"')
    assert worker.wait(30) == 1
    assert "had passed before the worker started" in worker.output
