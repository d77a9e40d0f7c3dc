"""One run, without a worker around it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pgonly_django.compat import TaskResultStatus, task_started
from pgonly_django.context.run import Run
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, State
from pgonly_django.queue.finish import Outcome
from pgonly_django.worker.running import Executor
from tests import jobs
from tests.jobs import ending, leaving, looping, paying
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
    executor = Executor("default", "id", ends.append)

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
def test_a_job_that_fails_goes_on_at_the_item_it_failed_in(run_jobs, marks, task):
    result = task.enqueue("k")
    run_jobs()
    assert result.job.attempt == 2
    assert marks() == ["k:0", "k:1", "k:2", "k:2", "k:3", "k:4"]


def test_an_async_job_that_exits_fails_alone(run_jobs):
    exits, others = ending.exit_async.enqueue(), [jobs.add_async.enqueue(i, 1) for i in range(5)]
    run_jobs()
    assert exits.job.state == State.SCHEDULED
    assert "SystemExit" in exits.job.errors[0]["exception"]
    assert [other.wait(1).return_value for other in others] == [1, 2, 3, 4, 5]


def test_a_paid_step_survives_the_loss_of_its_connection(work, marks):
    result = paying.pay_and_lose_the_connection.enqueue("paid")
    work(threads=1)
    assert result.wait(1).return_value == 7
    assert (result.job.attempt, marks()) == (1, ["paid"])


def test_a_receiver_of_task_started_may_use_the_orm_for_async_jobs_too(run_jobs):
    seen = []

    def receiver(sender, task_result, **_):
        seen.append(Job.objects.get(pk=task_result.id).state)

    task_started.connect(receiver)
    try:
        result = jobs.add_async.enqueue(1, 1)
        run_jobs()
    finally:
        task_started.disconnect(receiver)
    assert seen == [State.RUNNING]
    assert result.wait(1).status == TaskResultStatus.SUCCESSFUL
