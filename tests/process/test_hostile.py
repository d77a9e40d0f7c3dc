"""Jobs that change the process they share: the worker works on, ends as it should, and holds nothing back."""

from __future__ import annotations

import signal

import pytest

from pgonly_django.models import State, Worker
from tests import jobs
from tests.jobs import hostile
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]

FAILS = {
    hostile.exit_with_a_code: "SystemExit",
    hostile.interrupt_itself: "KeyboardInterrupt",
    hostile.take_over_signals: "ValueError",
}
SUCCEEDS = (
    hostile.move_away,
    hostile.close_streams,
    hostile.set_places,
    hostile.start_threads_for_ever,
    hostile.use_up_threads,
)


def ends_as_it_should(worker, marks):
    """Others still run; at SIGTERM the one that does goes back."""
    assert [jobs.add.enqueue(i).wait(20).return_value for i in range(10)] == list(range(1, 11))
    held = jobs.hold_on.enqueue("held")
    wait_for(lambda: "held:started" in marks())
    worker.send(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert (held.job.state, held.job.interruptions) == (State.READY, 1)
    assert Worker.objects.get(name=worker.name).stopped_at is not None


@pytest.mark.parametrize("task", SUCCEEDS, ids=lambda task: task.func.__name__)
def test_a_job_that_changes_the_process_holds_up_no_other(workers, marks, task):
    worker = workers.start("--threads", "2", "--grace-seconds", "3")
    assert task.enqueue().wait(20).job.state == State.SUCCEEDED
    ends_as_it_should(worker, marks)


def test_a_job_that_would_end_the_process_fails_alone(workers, marks):
    worker = workers.start("--threads", "2", "--grace-seconds", "3")
    for task, error in FAILS.items():
        job = task.enqueue().wait(20).job
        assert (job.state, job.errors[0]["exception"]) == (State.FAILED, f"builtins.{error}")
    ends_as_it_should(worker, marks)


def test_two_workers_may_have_one_name(workers):
    twins = [workers.start("--name", "twin", ready=False) for _ in range(2)]
    wait_for(lambda: Worker.objects.filter(name="twin").count() == 2, what="both rows")
    assert [jobs.add.enqueue(i).wait(20).return_value for i in range(10)] == list(range(1, 11))
    for twin in twins:
        twin.send(signal.SIGTERM)
        assert twin.wait(20) == 0
    assert Worker.objects.filter(name="twin", stopped_at=None).count() == 0


def test_without_files_to_open_jobs_fail_and_the_worker_works_on(workers, marks):
    worker = workers.start("--threads", "2", "--grace-seconds", "3", shell='ulimit -n 64; exec "$@"')
    hostile.hold_files.enqueue("full", 3.0)
    wait_for(lambda: "full" in marks())
    in_vain = [jobs.add_async.using(max_attempts=1).enqueue(i, 1) for i in range(3)]
    assert {result.wait(20).job.state for result in in_vain} <= {State.FAILED, State.SUCCEEDED}
    ends_as_it_should(worker, marks)
