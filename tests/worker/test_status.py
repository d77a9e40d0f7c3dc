from __future__ import annotations

import json
import time
from dataclasses import asdict, replace

import pytest

from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import STALLED_SECONDS, Status, WorkerState, state_of
from tests import jobs
from tests.waiting import wait_for


def test_a_status_travels_as_json():
    status = WorkerLoop(WorkerOptions(name="w")).status()
    assert status.state is WorkerState.STARTING
    read = Status.from_dict({**json.loads(json.dumps(asdict(status))), "unknown": 1})
    assert read == status
    assert read.state is WorkerState.STARTING


@pytest.mark.parametrize("facts", [{}, {"state": "odd"}])
def test_what_is_no_status_is_refused(facts):
    with pytest.raises((KeyError, ValueError)):
        Status.from_dict(facts)


def test_the_state_that_counts_most_is_told():
    facts = {"is_stopping": True, "is_started": False, "is_away": True, "is_asleep": True}
    told = []
    for name, value in (
        ("is_stopping", False),
        ("is_started", True),
        ("is_asleep", False),
        ("is_away", False),
    ):
        told.append(state_of(**facts))
        facts[name] = value
    assert [*told, state_of(**facts)] == ["stopping", "starting", "asleep", "away", "ready"]


def test_a_status_counts_what_runs_and_what_has_ended(background_worker, work):
    jobs.add.enqueue(1, b=1)
    jobs.fail.enqueue("broken")
    done = work().status()
    assert (done.jobs_done, done.jobs_failed, done.running) == (4, 1, 0)  # three attempts
    assert done.state is WorkerState.STOPPING

    jobs.pause.enqueue(20)
    worker = background_worker(threads=2)
    running = wait_for(lambda: (status := worker.status()).running == 1 and status)
    assert (running.state, running.idle_since, running.threads) == (WorkerState.READY, None, 2)
    worker.stop_now()
    assert worker.left.wait(10)
    stopped = worker.status()
    assert (stopped.state, stopped.jobs_done, stopped.jobs_released) == (WorkerState.STOPPING, 0, 1)
    assert stopped.idle_since is not None


def test_a_loop_that_does_not_turn_is_stalled(background_worker):
    worker = background_worker(poll_seconds=0.05)
    first = worker.status()
    assert not first.is_stalled
    wait_for(lambda: worker.status().turned_at > first.turned_at)
    assert replace(first, turned_at=time.monotonic() - STALLED_SECONDS - 1).is_stalled
