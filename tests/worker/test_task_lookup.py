from __future__ import annotations

import pytest
from django.utils import timezone

from pgonly_django.models import Job, State
from tests import jobs
from tests.queue.rows import make_worker


def test_a_backoff_that_moved_away_holds_up_its_own_job_only(run_jobs):
    moved = jobs.add.enqueue(1)
    Job.objects.filter(pk=moved.id).update(options={"backoff": "tests.jobs.no_such_backoff"})
    good = jobs.add.enqueue(1)
    run_jobs()
    assert good.wait(1).return_value == 2
    assert moved.job.state == State.SCHEDULED
    assert "no_such_backoff" in moved.job.errors[0]["reason"]


def test_a_module_that_exits_while_it_is_imported_has_no_known_task(run_jobs):
    bad, good = jobs.add.enqueue(1), jobs.add.enqueue(1)
    Job.objects.filter(pk=bad.id).update(task="tests.exits_when_imported.gone")
    run_jobs()
    assert good.wait(1).return_value == 2
    assert bad.job.state == State.SCHEDULED


@pytest.mark.parametrize("task", [jobs.add, jobs.add_async])
def test_arguments_that_do_not_fit_here_wait_for_a_worker_that_takes_them(run_jobs, task):
    """Amid a deploy: they were enqueued for a signature that this worker does not have yet."""
    result = task.enqueue(1, 1)
    Job.objects.filter(pk=result.id).update(kwargs={"currency": "EUR"})
    good = jobs.add.enqueue(1)
    run_jobs()
    job = result.job
    assert (job.state, job.attempt, job.errors[0]["outcome"]) == (State.SCHEDULED, 0, "postponed")
    assert (
        "cannot be called with these arguments: got an unexpected keyword argument" in job.errors[0]["reason"]
    )
    assert good.wait(1).return_value == 2


def test_a_type_error_inside_a_job_is_an_error_of_its_own(ran):
    job = ran(jobs.add.using(max_attempts=1), 1, "b").job
    assert (job.state, job.attempt) == (State.FAILED, 1)


def test_an_unknown_task_waits_without_burning_an_attempt(run_jobs):
    result = jobs.add.enqueue(1)
    Job.objects.filter(pk=result.id).update(task="tests.jobs.not_deployed_yet")
    run_jobs()
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.attempt, job.interruptions) == (State.SCHEDULED, 0, 0)
    assert "not_deployed_yet" in job.errors[0]["reason"]


def test_a_job_that_no_code_has_run_does_not_say_that_the_jobs_of_its_queue_are_short(work):
    result = jobs.add.enqueue(1)
    Job.objects.filter(pk=result.id).update(task="tests.jobs.not_deployed_yet")
    worker = work()
    assert Job.objects.get(pk=result.id).state == State.SCHEDULED
    assert worker.plan._run_seconds == {}


@pytest.mark.parametrize(("others", "met"), [(1, 1), (0, 4)])
def test_jobs_of_an_unknown_task_are_met_once_while_other_workers_live(work, caplog, others, met):
    for _ in range(others):
        make_worker()
    unknown = [jobs.add.enqueue(n) for n in range(4)]
    Job.objects.update(task="tests.jobs.not_deployed_yet")
    good = jobs.add.enqueue(1)
    work(threads=1)
    assert good.wait(1).return_value == 2
    assert sum(result.job.lease_epoch for result in unknown) == met
    assert caplog.text.count("is looked for again") == 1


def test_a_backend_that_is_not_here_leaves_the_other_jobs_of_its_task(run_jobs):
    make_worker()
    bad, *good = [jobs.add.enqueue(n) for n in range(4)]
    Job.objects.filter(pk=bad.id).update(backend="gone")
    run_jobs()
    assert bad.job.state == State.SCHEDULED
    assert [result.job.state for result in good] == [State.SUCCEEDED] * 3


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"task": "tests.jobs.gone"}, "No worker knew the task for 1 h"),
        ({"args": [1, 2, 3]}, "No worker could call it with its arguments for 1 h"),
    ],
)
def test_what_no_worker_could_run_for_an_hour_fails_with_the_reason(run_jobs, columns, reason):
    result = jobs.add.enqueue(1)
    since = (timezone.now() - timezone.timedelta(hours=1, minutes=1)).isoformat()
    entry = {"outcome": "postponed", "since": since, "reason": "unknown"}
    Job.objects.filter(pk=result.id).update(**columns, errors=[entry])
    run_jobs()
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.errors[-1]["outcome"]) == (State.FAILED, "failed")
    assert reason in job.errors[-1]["reason"]
