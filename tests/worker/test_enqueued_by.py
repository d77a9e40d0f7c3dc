"""Where a job comes from: the job, or the schedule, whose code enqueued it."""

from __future__ import annotations

import pytest

from pgonly_django import enqueue_many
from pgonly_django.compat import task_backends
from pgonly_django.models import Job, State
from pgonly_django.tasks.editing import run_again
from pgonly_django.tasks.redrive import redrive
from pgonly_django.tasks.result import JobResult
from tests.jobs import add, enqueuing
from tests.queue.rows import make

pytestmark = pytest.mark.django_db


def origins(ids):
    return {job.enqueued_by for job in Job.objects.filter(pk__in=ids)}


def enqueued_in(run_jobs, task, *args) -> tuple[JobResult, list[str]]:
    """The job, and the ids of those that it has enqueued."""
    result = task.enqueue(*args)
    run_jobs(max_jobs=1)
    result.refresh()
    return result, result.return_value


@pytest.mark.parametrize("way", ["alone", "later", "with_metadata", "with_a_key", "unique", "many"])
def test_a_job_that_a_job_enqueues_names_it(run_jobs, way):
    result, ids = enqueued_in(run_jobs, enqueuing.enqueue, way)
    assert origins(ids) == {f"job:{result.id}"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("way", "is_known"), [("in_a_thread", False), ("in_a_thread_with_its_context", True)]
)
def test_a_thread_of_a_job_names_it_where_it_has_its_context(work, way, is_known):
    result = enqueuing.enqueue.enqueue(way)
    work()
    (child,) = Job.objects.exclude(pk=result.id)
    assert child.enqueued_by == (f"job:{result.id}" if is_known else None)


@pytest.mark.django_db(transaction=True)
def test_an_async_job_is_named_too(work):
    result = enqueuing.enqueue_async.enqueue()
    work()
    assert Job.objects.exclude(pk=result.id).get().enqueued_by == f"job:{result.id}"


def test_what_other_code_enqueues_names_nothing(run_jobs):
    enqueued_in(run_jobs, enqueuing.enqueue, "alone")
    ids = [add.enqueue(1).id, *(result.id for result in enqueue_many([(add, (1,)), (enqueuing.once, (2,))]))]
    assert origins(ids) == {None}


def test_a_debounced_call_of_a_job_leaves_the_row_to_the_call_that_made_it(run_jobs):
    first = enqueuing.debounced.enqueue(1)
    _, ids = enqueued_in(run_jobs, enqueuing.enqueue, "unique")
    assert first.id in ids
    assert first.job.enqueued_by is None


def test_it_outlasts_a_retry_and_a_redrive(run_jobs):
    result, (child,) = enqueued_in(run_jobs, enqueuing.enqueue, "alone")
    for again in (lambda jobs: jobs.retry(), redrive):
        Job.objects.filter(pk=child).update(state=State.FAILED)
        again(Job.objects.filter(pk=child))
        assert origins([child]) == {f"job:{result.id}"}


def test_a_job_that_is_run_again_is_named_by_its_copy(run_jobs):
    _, (child,) = enqueued_in(run_jobs, enqueuing.enqueue, "with_a_key")
    job = Job.objects.get(pk=child)
    call = {"queue": job.queue, "priority": 0, "run_at": None, "args": [2], "kwargs": {}}
    copy = run_again(job, **call).job
    assert (copy.enqueued_by, copy.concurrency_key) == (f"again:{child}", "number:2")


@pytest.mark.parametrize("task", ["tests.jobs.burying.note", "tests.jobs.enqueuing.once"])
def test_a_dead_letter_names_the_failed_job(run_jobs, settings, task):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": task}}}
    task_backends["default"]._prepared.clear()
    result = enqueuing.fail.enqueue()
    run_jobs()
    assert Job.objects.get(queue="dead").enqueued_by == f"job:{result.id}"


def test_the_row_of_an_origin_that_is_gone_stays_named(run_jobs):
    result, ids = enqueued_in(run_jobs, enqueuing.enqueue, "many")
    result.job.delete()
    make()
    assert origins(ids) == {f"job:{result.id}"}
