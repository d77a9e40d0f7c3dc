"""Planned stops: signals, grace, exit codes."""

from __future__ import annotations

import signal
import socket

import pytest

from pgonly_django.models import State
from tests import jobs
from tests.waiting import wait_for

pytestmark = pytest.mark.process


def start_with_job(workers, marks, task, grace_seconds):
    """A worker, and the result of a job that runs in it."""
    worker = workers.start("--grace-seconds", grace_seconds)
    result = task.enqueue("k")
    started(marks, "k")
    return worker, result


def started(marks, key):
    wait_for(lambda: f"{key}:started" in marks(), what=f"{key} to start")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGHUP])
def test_a_planned_stop_lets_the_job_save_releases_it_and_costs_no_attempt(workers, marks, number):
    """SIGHUP: the terminal is closed."""
    worker, result = start_with_job(workers, marks, jobs.hold_on, "2")
    worker.send(number)
    assert worker.wait(10) == 0
    job = result.job
    assert (job.state, job.attempt, job.interruptions) == (State.READY, 0, 1)
    assert job.checkpoint.value == {"seen": 1}
    assert job.errors[0]["outcome"] == "released"
    workers.start()
    wait_for(lambda: marks().count("k:started") == 2, what="the second start")
    assert result.job.attempt == 1


def test_a_stopped_job_goes_on_before_the_jobs_that_were_enqueued_after_it(workers, marks):
    worker = workers.start("--threads", "1")
    jobs.hold_on.enqueue("k")
    started(marks, "k")
    for number in range(20):
        jobs.mark_once.enqueue(f"later {number}")
    worker.send(signal.SIGTERM)
    assert worker.wait(20) == 0
    workers.start("--threads", "1")
    wait_for(lambda: len(marks()) > 1, what="the next job")
    assert marks()[1] == "k:started"


def test_a_job_that_does_not_listen_is_released_when_the_grace_is_over(workers, marks):
    worker, result = start_with_job(workers, marks, jobs.stubborn, "1")
    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0
    job = result.job
    assert (job.state, job.attempt, job.interruptions) == (State.READY, 0, 1)


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)])
def test_a_second_interrupt_or_quit_releases_at_once(workers, marks, signals):
    worker, result = start_with_job(workers, marks, jobs.stubborn, "300")
    for number in signals:
        worker.send(number)
        wait_for(lambda: "Stopping" in worker.output, what="the first signal to be heard")
    assert worker.wait(10) == 0
    assert result.job.state == State.READY
    is_given_time = signals[0] == signal.SIGINT
    assert ("Ctrl-C again releases them now" in worker.output) is is_given_time


@pytest.mark.slow
def test_nohup_holds(workers, marks):
    worker = workers.start("--burst", ready=False, shell='trap "" HUP; exec "$@"')
    result = jobs.hold_on.enqueue("k", 1.0)
    started(marks, "k")
    worker.send(signal.SIGHUP)
    assert worker.wait(10) == 0
    assert result.job.state == State.SUCCEEDED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_worker_is_there_ends_the_process(workers, number):
    """A server that takes connections and never answers: the start waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        workers.url = f"postgres://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        worker = workers.start(ready=False)
        silent.settimeout(30)
        connected, _ = silent.accept()
        with connected:
            worker.send(number)
            assert worker.wait(5) == 0
    assert worker.output == ""


@pytest.mark.slow
@pytest.mark.parametrize("task", [jobs.sleep_in_slices, jobs.sleep_async, jobs.stubborn])
def test_a_running_job_is_cancelled(workers, marks, task):
    worker, result = start_with_job(workers, marks, task, "1")
    assert result.cancel()
    result.wait(10)
    job = result.job
    assert job.state == State.CANCELLED
    assert job.errors[-1]["outcome"] == "cancelled"
    # The worker is as good as before.
    assert jobs.add.enqueue(1, 1).wait(10).return_value == 2
    assert worker.process.poll() is None
    if task is jobs.sleep_in_slices:
        assert "k:cleaned up" in marks()


def test_a_worker_whose_every_slot_is_stuck_asks_to_be_replaced(workers, marks):
    worker = workers.start("--threads", "1", "--grace-seconds", "0")
    result = jobs.stubborn.enqueue("stuck")
    started(marks, "stuck")
    result.cancel()
    assert worker.wait(15) == 3
    assert result.job.state == State.CANCELLED


@pytest.mark.parametrize("debug", ["0", "1"])
def test_the_terminal_shows_each_end_and_each_traceback_once(workers, marks, debug):
    worker = workers.start("--grace-seconds", "2", TEST_DEBUG=debug)
    good, bad, held = (
        jobs.add.enqueue(1),
        jobs.fail.using(max_attempts=1).enqueue("broken"),
        jobs.hold_on.enqueue("k"),
    )
    started(marks, "k")
    wait_for(lambda: {each.job.state for each in (good, bad)} == {State.SUCCEEDED, State.FAILED})
    worker.send(signal.SIGTERM)
    assert worker.wait(10) == 0
    for result in (good, bad, held):
        assert sum(result.id in line for line in worker.output.splitlines()) == 1, worker.output
    assert worker.output.count("ValueError: broken") == 1
    assert worker.output.splitlines()[-1].endswith(" INFO Stopped after 2 job(s), 1 more released.")
