from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections
from django.utils import timezone

from pgonly_django.compat import TaskResultStatus
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.models import Job
from pgonly_django.tasks.registry import UnknownTaskError
from pgonly_django.testing import DrainError, adrain, drain
from tests.jobs import add, add_async, count_async, count_to, drained, fail
from tests.queue.rows import make
from tests.testing.conftest import both, states


@both
def test_it_runs_what_is_ready_and_returns_the_results(where):
    add.enqueue(1, 2)
    add_async.enqueue(3, 4)
    count_to.enqueue(3)
    count_async.enqueue(3)
    results = drain()
    assert [result.return_value for result in results] == [3, 7, 5, 5]
    assert {result.status for result in results} == {TaskResultStatus.SUCCESSFUL}
    assert states() == ["succeeded"] * 4
    assert drain() == []


@both
def test_jobs_that_a_job_enqueues_run_too(where):
    drained.enqueue_a_chain.enqueue(3)
    assert [result.args for result in drain()] == [[3], [2], [1], [0]]


@both
@pytest.mark.parametrize(("how", "state"), [("retry", "scheduled"), ("discard", "failed")])
def test_what_a_job_asks_for_itself_raises_nothing(where, how, state):
    drained.end_by.enqueue(how)
    drain()
    assert states() == [state]


@both
def test_retries_run_once_they_are_due(where):
    fail.enqueue()  # without a pause between its attempts
    drained.mark_and_fail.enqueue("one")
    drain(raise_errors=False)
    assert states() == ["failed", "scheduled"]
    assert list(Job.objects.order_by("pk").values_list("attempt", flat=True)) == [3, 1]


@both
def test_a_job_that_fails_raises_its_error_once_its_row_is_written(where, written):
    drained.mark_and_fail.enqueue("one")
    add.enqueue(1)
    with pytest.raises(ValueError, match="after one") as caught:
        drain()
    assert "attempt 1 of 3. Its row is scheduled." in caught.value.__notes__[0]
    assert written() == ["one"]
    assert states() == ["scheduled", "ready"]
    assert Job.objects.first().errors[0]["exception"] == "builtins.ValueError"


@both
def test_without_raise_errors_the_drain_goes_on(where):
    drained.mark_and_fail.enqueue("one")
    add.enqueue(1)
    failed, added = drain(raise_errors=False)
    assert (failed.status, failed.attempts) == (TaskResultStatus.READY, 1)
    assert failed.errors[0].exception_class_path == "builtins.ValueError"
    assert added.return_value == 2


@both
def test_an_exit_fails_its_job_and_does_not_end_the_test_run(where):
    drained.end_by.using(max_attempts=1).enqueue("exit")
    with pytest.raises(DrainError, match="SystemExit") as caught:
        drain()
    assert isinstance(caught.value.__cause__, SystemExit)
    assert states() == ["failed"]


@both
def test_what_is_meant_for_the_test_run_ends_the_drain(where):
    drained.end_by.enqueue("interrupt")
    with pytest.raises(KeyboardInterrupt):
        drain(raise_errors=False)
    drained.end_by.enqueue("skip")
    with pytest.raises(pytest.skip.Exception):
        drain(raise_errors=False)


def test_a_task_that_does_not_exist_raises(db):
    make(task="tests.jobs.was_renamed")
    with pytest.raises(UnknownTaskError, match="was_renamed"):
        drain()


def test_max_runtime_interrupts_the_job(db):
    drained.run_too_long.enqueue()
    with pytest.raises(DrainError, match="JobTimedOut"):
        drain()
    assert Job.objects.get().errors[0]["outcome"] == "timed out"


@both
def test_only_what_may_start_now_runs(where):
    add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1)
    add.enqueue(2)
    Job.objects.filter(args=[2]).hold()
    add.enqueue(3)
    Job.objects.filter(args=[3]).cancel()
    assert drain() == []
    assert states() == ["scheduled", "held", "cancelled"]


@both
def test_due_jobs_run(where):
    make(args=[1], state="scheduled", run_at=timezone.now() - timedelta(hours=1))
    assert [result.return_value for result in drain()] == [2]


@both
def test_queues_are_served_in_their_order(where):
    for queue in ("one", "two", "three"):
        add.using(queue_name=queue).enqueue(1)
    assert [result.task.queue_name for result in drain(["two", "one"])] == ["two", "one"]
    assert [result.task.queue_name for result in drain("three")] == ["three"]


@both
def test_it_stops_after_max_jobs_and_when_until_is_true(where):
    for number in range(6):
        add.enqueue(number)
    assert len(drain(max_jobs=2)) == 2
    assert len(drain(until=lambda: Job.objects.finished().count() == 5)) == 3
    assert len(drain()) == 1


def test_a_job_that_never_ends_ends_the_drain(db):
    drained.end_by.enqueue("again")
    with pytest.raises(DrainError, match="has run 100 times, and there is still work: give drain"):
        drain()


@pytest.mark.parametrize(
    "wrong", [{"max_jobs": 0}, {"max_jobs": "1"}, {"queue": "defualt"}, {"queue": 7}, {"until": True}]
)
def test_wrong_arguments_are_refused(db, settings, wrong):
    settings.TASKS = {"default": {**settings.TASKS["default"], "QUEUES": ["default", "mail"]}}
    with pytest.raises(WrongArgumentsError) as caught:
        drain(**wrong)
    if wrong.get("queue") == "defualt":
        assert "Did you mean 'default'?" in str(caught.value)


# Where it may be called.


def test_without_the_database_it_is_refused():
    with pytest.raises(RuntimeError, match=r"django_db.*The jobs are stored there"):
        drain()


def test_in_another_thread_than_the_test_s_it_is_refused(db):
    with ThreadPoolExecutor(1) as thread, pytest.raises(AssertionError, match="await adrain"):
        thread.submit(drain).result(30)


def test_in_a_coroutine_it_is_refused(db):
    async def in_the_loop():
        drain()

    with pytest.raises(SynchronousOnlyOperation, match="await adrain"):
        asyncio.run(in_the_loop())


@pytest.mark.django_db(transaction=True)
def test_adrain_awaits_the_same():
    async def in_the_loop():
        await add.aenqueue(1)
        results = await adrain()
        await sync_to_async(connections.close_all)()  # of asgiref's thread
        return results

    assert [result.return_value for result in asyncio.run(in_the_loop())] == [2]
