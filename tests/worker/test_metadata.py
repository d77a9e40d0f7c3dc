"""Metadata on the side of the job, and on each way on which a job runs again."""

from __future__ import annotations

import pytest

from pgonly_django import redrive
from pgonly_django.compat import task_backends
from pgonly_django.models import Job, State
from pgonly_django.tasks.editing import edit, run_again, version_of
from pgonly_django.testing import drain
from tests.jobs import carrying

ACME = {"tenant": "acme", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
def dead(settings, transactional_db):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": "tests.jobs.carrying.letter"}}}
    task_backends["default"]._prepared.clear()


def run(work, task, *args):
    result = task.using(metadata=ACME).enqueue(*args)
    work()
    result.refresh()
    return result


@pytest.mark.parametrize("task", [carrying.tell, carrying.tell_async, carrying.tell_atomic])
def test_a_job_reads_its_metadata(work, task):
    assert run(work, task).return_value == ACME


def test_a_job_without_metadata_reads_an_empty_mapping(ran):
    result = ran(carrying.tell)
    result.refresh()
    assert result.return_value == {}


def test_the_job_cannot_change_it(work):
    result = run(work, carrying.change.using(max_attempts=1))
    assert "does not support item assignment" in result.errors[0].traceback
    assert dict(result.metadata) == ACME


@pytest.mark.django_db
def test_drain_gives_it_to_the_job():
    result = carrying.tell.using(metadata=ACME).enqueue()
    drain()
    result.refresh()
    assert result.return_value == ACME


def test_a_direct_call_of_another_backend_s_job_reads_that_of_its_task(settings):
    immediate = f"{type(task_backends['default']).__mro__[1].__module__.rpartition('.')[0]}.immediate"
    settings.TASKS = {**settings.TASKS, "now": {"BACKEND": f"{immediate}.ImmediateBackend"}}
    result = carrying.tell.using(backend="now", metadata=ACME).enqueue()
    assert result.return_value == ACME


def test_a_failed_job_that_is_redriven_or_retried_keeps_it(work, dead):
    result = run(work, carrying.fail_with_letter)
    assert redrive(Job.objects.filter(pk=result.id)).jobs == 1
    work()
    result.refresh()
    assert result.status == "FAILED"
    assert redrive(Job.objects.filter(pk=result.id), arguments={"fails": False}).jobs == 1
    work()
    result.refresh()
    assert result.return_value == ACME
    Job.objects.filter(pk=result.id).update(state=State.FAILED)
    assert result.retry()
    work()
    result.refresh()
    assert result.return_value == ACME


def test_a_dead_letter_has_that_of_the_failed_job(work, dead):
    run(work, carrying.fail_with_letter)
    work()
    letter = Job.objects.get(queue="dead")
    assert (letter.result, letter.metadata) == (ACME, ACME)


def test_a_job_that_is_run_again_or_edited_keeps_it(dead):
    job = carrying.fail_with_letter.using(metadata=ACME, dead_letter_queue=None).enqueue().job
    call = {"queue": job.queue, "priority": job.priority, "run_at": None, "args": [True], "kwargs": {}}
    assert dict(run_again(job, **call).metadata) == ACME
    edit("default", job.pk, version_of(job), {"args": [False], "priority": 5})
    job.refresh_from_db()
    assert (job.args, job.priority, job.metadata) == ([False], 5, ACME)
