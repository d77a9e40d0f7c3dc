"""One run, without a worker around it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pgonly_django.context.run import Run
from pgonly_django.database.connect import connect
from pgonly_django.queue.finish import Outcome
from pgonly_django.worker.executor import Executor
from pgonly_django.worker.outcomes import WorkerFacts
from tests.jobs import leaving, looping
from tests.queue.rows import claim, claimer, make


@pytest.fixture
def run_of(transactional_db):
    def make_run(task, *args):
        make(task=task.module_path, args=args)
        with connect("default", application_name="pgonly tests") as server:
            (job,) = claim(server, claimer())
        return Run(job, "default", claimed_at=0.0, lease_until=float("inf"))

    return make_run


def execute(run):
    """Its end, out of a thread as a worker has them."""
    ends = []
    executor = Executor("default", WorkerFacts("id", "name"), ends.append)

    def target():
        asyncio.run(executor.arun(run)) if executor.tasks.is_async(run.job) else executor.run(run)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(20)
    (ended,) = ends
    return ended


@pytest.mark.parametrize("task", [leaving.swallow, leaving.swallow_async])
@pytest.mark.parametrize("wish", ["cancel_requested", "stop_requested"])
def test_a_job_that_has_to_end_before_its_start_is_not_called(run_of, marks, task, wish):
    run = run_of(task, "k")
    setattr(run, wish, True)
    expected = Outcome.CANCELLED if wish == "cancel_requested" else Outcome.RELEASED
    assert execute(run).finish.outcome is expected
    assert marks() == []


@pytest.mark.parametrize("task", [looping.fail_at_the_third, looping.fail_at_the_third_async])
def test_a_job_that_fails_goes_on_at_the_item_it_failed_in(work, marks, task):
    result = task.enqueue("k")
    work(threads=1)
    assert result.job.attempt == 2
    assert marks() == ["k:0", "k:1", "k:2", "k:2", "k:3", "k:4"]
