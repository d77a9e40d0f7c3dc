"""Results read from their rows."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from pgonly_django.compat import Task, TaskResultMismatch, TaskResultStatus
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.tasks.registry import UnknownTaskError
from tests.tasks.calls import add, backend

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("path", ["tests.tasks.calls.renamed", "tests.gone.add", "tests.tasks.calls.linear"])
def test_the_result_of_a_task_that_is_gone_can_be_read(path):
    soon = timezone.now() + timedelta(hours=1)
    job = Job.objects.create(
        task=path, queue="old", priority=7, args=[1], state=State.SUCCEEDED, result=3, run_at=soon
    )
    result = backend().get_result(str(job.pk))
    assert (result.status, result.return_value, result.args) == (TaskResultStatus.SUCCESSFUL, 3, [1])
    assert result.task.module_path == path
    assert (result.task.queue_name, result.task.priority, result.task.run_after) == ("old", 7, soon)
    Job.objects.update(state=State.FAILED)
    result.refresh()
    assert result.is_finished
    assert result.job.state == State.FAILED


def test_a_task_that_is_gone_says_so_when_it_is_called():
    job = Job.objects.create(task="tests.gone.add")
    result = async_to_sync(backend().aget_result)(str(job.pk))
    assert result.task.name == "add"
    for _ in range(2):
        with pytest.raises(UnknownTaskError, match=r"Cannot import the task tests\.gone\.add"):
            result.task.call(1)
    with pytest.raises(TaskResultMismatch):
        add.get_result(str(job.pk))


def entries(*outcomes):
    return [{"outcome": outcome, "worker_id": str(uuid4())} for outcome in outcomes]


@pytest.mark.parametrize(
    ("attempt", "state", "outcomes", "workers"),
    [
        (1, State.SUCCEEDED, ["snoozed", "snoozed", "postponed", "released"], 4),
        (14, State.FAILED, ["failed"] * 10, 10),
        (0, State.SCHEDULED, ["postponed"], 0),
        (0, State.FAILED, ["discarded"], 1),
        (2, State.RUNNING, ["failed"], 2),
    ],
)
def test_attempts_are_those_that_count(attempt, state, outcomes, workers):
    soon = timezone.now() + timedelta(hours=1)
    facts = {"state": state, "attempt": attempt, "errors": entries(*outcomes), "run_at": soon}
    job = Job.objects.create(task="tests.tasks.calls.add", worker_id=uuid4(), lease_expires_at=soon, **facts)
    result = backend().get_result(str(job.pk))
    assert (result.attempts, len(result.worker_ids)) == (attempt, workers)


COPIES = [copy.copy, copy.deepcopy]
if hasattr(Task, "_reconstruct"):  # from Django 6.1 on its tasks can be pickled
    COPIES.append(lambda result: pickle.loads(pickle.dumps(result)))


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_a_result_is_as_good(copied):
    result = add.enqueue(1)
    Job.objects.update(attempt=3)
    result.refresh()
    again = copied(result)
    assert (again, again.attempts, again.job.pk) == (result, 3, result.job.pk)


def test_two_results_of_new_jobs_share_nothing_that_can_be_changed():
    first, second = add.enqueue(1, b=2), add.enqueue(1, b=2)
    for name in ("args", "kwargs", "errors", "worker_ids"):
        assert getattr(first, name) == getattr(second, name)
        assert getattr(first, name) is getattr(first, name)
        assert getattr(first, name) is not getattr(second, name)


def test_a_refreshed_result_tells_the_new_attempts():
    result = add.enqueue(1)
    assert result.attempts == 0
    Job.objects.update(attempt=3)
    result.refresh()
    assert result.attempts == 3
    Job.objects.update(attempt=4)
    async_to_sync(result.arefresh)()
    assert result.attempts == 4
