"""Jobs, results, schedules and redrives of a task whose path has changed."""

from __future__ import annotations

import pytest

from pgonly_django.models import Job, Schedule, State
from pgonly_django.tasks.redrive import redrive
from tests.jobs.renamed import add_numbers, count_in_steps
from tests.scheduling.rows import look, make

FORMER, FIRST, OF_STEPS = "tests.jobs.before.add", "tests.jobs.before.add_up", "tests.jobs.before.count"


def under(path, result):
    """The job, as the version before has stored it."""
    Job.objects.filter(pk=result.id).update(task=path)
    return result


@pytest.mark.parametrize("path", [FORMER, FIRST])
def test_a_job_under_a_former_path_runs_the_task(run_jobs, path):
    result = under(path, add_numbers.enqueue(2, b=3))
    run_jobs()
    assert result.wait(1).return_value == 5
    assert result.job.task == path  # as it was stored
    found = add_numbers.get_backend().get_result(result.id)
    assert found.task.func is add_numbers.func
    assert found.task.call(1) == 2


def test_a_run_that_the_version_before_began_goes_on(run_jobs, marks):
    result = under(OF_STEPS, count_in_steps.enqueue("key"))
    run_jobs()
    Job.objects.filter(pk=result.id).update(state=State.READY, finished_at=None, delete_after=None)
    run_jobs()
    assert result.wait(1).return_value == "tests.jobs.renamed.count_in_steps"
    assert marks() == ["key:0", "key:1", "key:2"]


def test_a_schedule_of_a_former_path_ticks(transactional_db):
    make(task=FORMER, args=[1], kwargs={"b": 4})
    look()
    (job,) = Job.objects.all()
    assert (job.task, job.args, job.kwargs) == (add_numbers.module_path, [1], {"b": 4})
    assert Schedule.objects.get().problem is None


def test_failed_jobs_of_a_former_path_are_redriven_with_other_arguments(run_jobs):
    result = under(FORMER, add_numbers.enqueue("two", b=3))
    Job.objects.filter(pk=result.id).update(state=State.FAILED)
    assert redrive(Job.objects.failed(), arguments={"a": 2}).jobs == 1
    run_jobs()
    assert result.wait(1).return_value == 5
    assert result.job.task == FORMER


def test_a_path_that_is_no_alias_stays_unknown(run_jobs):
    result = under("tests.jobs.before.subtract", add_numbers.enqueue(2))
    run_jobs()
    assert result.job.state == State.SCHEDULED
    assert "Cannot import the task tests.jobs.before.subtract" in result.job.errors[0]["reason"]
