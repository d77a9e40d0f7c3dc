"""Processes that jobs start: they end when told to, and harm neither the worker nor its connections."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from django.db import connection

from pgonly_django.models import State, Worker
from tests import activity, jobs
from tests.jobs import forking
from tests.process.supervised import lives
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.slow,
]


def run(workers, result, *flags):
    """The worker that has run the job, and all others."""
    worker = workers.start("--burst", *flags, ready=False)
    assert worker.wait(60) == 0
    result.refresh()
    return worker


@pytest.mark.parametrize(("method", "times"), [("fork", 10), ("forkserver", 2), ("spawn", 2)])
def test_a_pool_inside_a_job_ends(workers, method, times):
    result = forking.map_in_a_pool.enqueue(method, times)
    run(workers, result, "--threads", "2")
    assert result.return_value == 6 * times


def test_a_child_ends_when_it_is_terminated(workers):
    result = forking.terminate_a_child.enqueue()
    run(workers, result)
    assert result.return_value == -signal.SIGTERM


def test_a_child_has_a_connection_of_its_own_and_leaves_the_job_s_alone(workers, marks):
    result = forking.share_the_database_with_a_child.enqueue()
    run(workers, result)
    assert result.return_value == {"same": True, "own": True, "count": 1, "code": 0}
    assert marks() == ["kept"]


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("raise", 1), ("exit", 7)])
def test_a_child_that_comes_back_out_of_the_job_ends_there(workers, marks, how, code):
    result = forking.come_back_twice.enqueue(how, "k")
    other = jobs.add.enqueue(1)
    worker = run(workers, result, "--threads", "1")
    assert (result.return_value, result.job.attempt, marks()) == (code, 1, ["k"])
    assert other.job.state == State.SUCCEEDED
    assert worker.output.count("Stopped after 2 job(s).") == 1
    assert ("ValueError: in the child" in worker.output) == (how == "raise")


@pytest.mark.parametrize("signal_name", ["start", "end"])
def test_a_child_that_comes_back_out_of_a_receiver_ends_there_and_runs_no_job(workers, marks, signal_name):
    forking.fork_at_the_next.enqueue(signal_name)
    result = jobs.mark_once.enqueue("k")
    run(workers, result, "--threads", "1")
    assert (sorted(marks()), result.job.state) == (["0", "k"], State.SUCCEEDED)


def test_a_child_that_comes_back_out_of_an_async_job_ends_there(workers):
    result = forking.come_back_twice_async.enqueue()
    worker = run(workers, result)
    assert result.return_value == 0
    assert worker.output.count("Stopped after 1 job(s).") == 1


@pytest.mark.parametrize("daemon", [False, True])
def test_children_of_released_jobs_do_not_outlive_the_worker(workers, marks, daemon):
    worker = workers.start("--grace-seconds", "0.5")
    result = forking.leave_a_child_behind.enqueue("k", daemon)
    (child,) = [int(mark.partition(":")[2]) for mark in wait_for(marks, what="the child")]
    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert result.job.state == State.READY
    wait_for(lambda: not lives(child), what="the child's end")


@pytest.mark.skipif(sys.platform != "linux", reason="the server's side of a socket")
def test_a_killed_worker_s_child_holds_none_of_its_connections_open(workers):
    forking.die_beside_a_child.enqueue("k")
    worker = workers.start(ready=False)
    assert worker.wait() == -signal.SIGKILL

    def is_free():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(4711)")
            return cursor.fetchone()[0]

    wait_for(is_free, 10, "the dead worker's lock to go")

    (worker_id,) = Worker.objects.filter(name=worker.name).values_list("id", flat=True)

    its_own = f"strpos(application_name, '{worker_id}') > 0"
    wait_for(lambda: not activity.pids(its_own), 10, "the dead worker's own sessions to go")
