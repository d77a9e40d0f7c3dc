"""A job that follows another one: the end of the first and the INSERT of the second commit together."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.db.backends.postgresql.base import DatabaseWrapper
from django.utils import timezone
from psycopg.errors import LockNotAvailable

from pgonly_django import RESULT
from pgonly_django.compat import TaskResultStatus, task_enqueued, task_finished
from pgonly_django.exceptions import NotStorableError
from pgonly_django.models import Job, State
from pgonly_django.tasks.editing import run_again
from pgonly_django.testing import assert_resumable
from pgonly_django.worker.running import Executor
from tests.jobs import chained, mark
from tests.jobs.chained import keep, load
from tests.sql import sql
from tests.waiting import beside, wait_for

pytestmark = pytest.mark.django_db
LOADS = [load, chained.load_async, chained.load_atomically, chained.load_at_the_second_attempt]


def following(result) -> Job | None:
    """The job that follows the one of this result."""
    return Job.objects.filter(enqueued_by=f"job:{result.id}").first()


@pytest.mark.parametrize("task", LOADS)
def test_it_runs_with_the_result_of_the_job_before(run_jobs, task):
    first = task.using(then=keep.bind(RESULT, "weekly", value=RESULT, other=1)).enqueue(7)
    run_jobs()
    run_jobs()
    second = following(first)
    got = {"number": 7}
    assert second.result == [[got, "weekly"], {"value": got, "other": 1}]
    assert Job.objects.count() == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("task", LOADS)
def test_it_does_so_behind_a_worker(work, task):
    first = task.using(then=keep.bind(RESULT)).enqueue(7)
    work()
    work()
    assert following(first).result == [[{"number": 7}], {}]
    row = first.job
    assert (row.state, row.result, Job.objects.count()) == (State.SUCCEEDED, {"number": 7}, 2)
    if task is chained.load_at_the_second_attempt:
        assert [line["text"] for line in row.log] == ["began", "began"]


def test_without_a_result_it_gets_its_own_arguments_only(run_jobs):
    first = chained.end.using(then=keep).enqueue("well")
    run_jobs()
    assert following(first).result == [[], {}]


def test_of_a_chain_each_job_enqueues_the_next(run_jobs):
    last = keep.bind(RESULT, "last")
    middle = keep.using(then=last, queue_name="other", metadata={"a": 1}).bind(RESULT)
    first = load.using(then=middle).enqueue(1)
    run_jobs()
    second = following(first)
    third = Job.objects.get(enqueued_by=f"job:{second.pk}")
    assert (second.queue, second.metadata) == ("other", {"a": 1})
    assert third.result == [[[[{"number": 1}], {}], "last"], {}]


@pytest.mark.parametrize("how", ["error", "discard", "left open", "deep", "fenced"])
@pytest.mark.django_db(transaction=True)
def test_nothing_follows_a_job_that_has_not_succeeded(work, how):
    first = chained.end.using(then=keep.bind(RESULT)).enqueue(how)
    work()
    assert following(first) is None
    row = first.job
    assert row.state == (State.RUNNING if how == "fenced" else State.FAILED)
    if how == "deep":
        entry = row.errors[-1]
        assert entry["exception"].endswith(NotStorableError.__name__)
        assert "tests.jobs.chained.end, as an argument of tests.jobs.chained.keep" in entry["message"]


def test_a_result_that_cannot_be_an_argument_ends_the_job_at_once(run_jobs):
    first = chained.end.using(then=keep.bind(RESULT), max_attempts=5).enqueue("deep")
    run_jobs()
    row = first.job
    assert (row.state, row.attempt, following(first)) == (State.FAILED, 1, None)


@pytest.mark.parametrize("task", [load, chained.load_async, chained.load_atomically])
def test_a_job_has_not_succeeded_where_the_next_one_cannot_be_enqueued(run_jobs, task):
    first = task.using(then=keep).enqueue(1)
    sql("ALTER TABLE pgonly_job ADD CONSTRAINT never CHECK (task NOT LIKE '%%.keep')")
    run_jobs()
    row = first.job
    assert (row.state, row.result, row.errors[-1]["exception"]) == (
        State.SCHEDULED,
        None,
        "django.db.utils.IntegrityError",
    )
    sql("ALTER TABLE pgonly_job DROP CONSTRAINT never")
    Job.objects.all().run_now()
    run_jobs()
    assert (first.job.state, following(first).state) == (State.SUCCEEDED, State.SUCCEEDED)


def test_a_cancelled_or_discarded_job_that_waits_enqueues_nothing(run_jobs):
    for verb in ("cancel", "discard"):
        first = load.using(then=keep).enqueue(1)
        getattr(Job.objects.filter(pk=first.id), verb)()
        run_jobs()
        assert following(first) is None


def test_a_retried_job_is_followed_once(run_jobs):
    first = chained.end.using(then=keep).enqueue("error")
    run_jobs()
    Job.objects.filter(pk=first.id).update(args=["well"])
    assert first.retry()
    run_jobs()
    assert first.job.state == State.SUCCEEDED
    assert not first.retry(), "a job that has succeeded does not run again"
    assert Job.objects.filter(enqueued_by=f"job:{first.id}").count() == 1


def test_a_job_that_is_run_again_is_followed_again(run_jobs):
    first = load.using(then=keep.bind(RESULT)).enqueue(1)
    run_jobs()
    copy = run_again(first.job, queue="default", priority=0, run_at=None, args=[2], kwargs={})
    run_jobs()
    assert following(copy).result == [[{"number": 2}], {}]


CALLS = [
    keep.using(priority=7, queue_name="other", metadata={"a": "'"}, max_attempts=3).bind("'%", {"x": [1.5]}),
    keep.using(retention=None, failed_retention=None, max_runtime=timedelta(seconds=1.25)).bind(),
    keep.using(retention=timedelta(days=40), never_retry=(KeyError,), atomic=True).bind(a="\\"),
    chained.keep_in.bind(7),
    chained.keep_once.using(unique_for=timedelta(days=2)).bind(7),
    chained.keep_once.using(idempotency_key="k").bind(7),
    load.using(then=keep.using(then=chained.keep_in.bind(8)).bind(RESULT)).bind(2),
]
OWN = ("id", "enqueued_by", "enqueued_at", "ready_at", "unique_until")


def columns(job: Job) -> dict[str, object]:
    return {field.attname: getattr(job, field.attname) for field in Job._meta.fields if field.name not in OWN}


@pytest.mark.parametrize("call", CALLS)
def test_its_row_is_that_of_an_enqueue(run_jobs, call):
    first = load.using(then=call).enqueue(1)
    run_jobs(max_jobs=1)
    row = following(first)
    Job.objects.filter(pk=row.pk).update(unique_key=None)
    twin = Job.objects.get(pk=call.task.enqueue(*call.args, **call.kwargs).id)
    row.unique_key = row.unique_key or twin.unique_key
    assert columns(row) == columns(twin)
    assert (row.unique_until is None) == (twin.unique_until is None)


def test_one_that_is_due_later_waits_for_its_time(run_jobs):
    moment = timezone.now() + timedelta(hours=1)
    first = load.using(then=keep.using(run_after=moment)).enqueue(1)
    run_jobs()
    row = following(first)
    assert (row.state, row.run_at) == (State.SCHEDULED, moment)


def test_one_whose_key_another_job_has_is_not_enqueued_twice(run_jobs):
    there = chained.keep_once.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(7)
    first = load.using(then=chained.keep_once.bind(7, RESULT)).enqueue(1)
    run_jobs()
    assert first.job.state == State.SUCCEEDED
    assert set(Job.objects.values_list("pk", flat=True)) == {first.job.pk, there.job.pk}


def test_one_that_is_debounced_changes_the_job_that_waits(run_jobs):
    there = chained.keep_later.enqueue(7)
    load.using(then=chained.keep_later.bind(7, RESULT)).enqueue(1)
    run_jobs()
    assert there.job.args == [7, {"number": 1}]


def test_one_that_this_code_does_not_know_is_enqueued_too(run_jobs):
    first = load.using(then=keep).enqueue(1)
    row = first.job
    row.then_job["task"] = "shop.tasks.gone"
    row.save()
    run_jobs(max_jobs=1)
    assert following(first).task == "shop.tasks.gone"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("task", [load, chained.load_async])
def test_its_enqueue_is_signalled_after_the_commit(work, task):
    seen = []

    def listen(task_result, **_):
        if task_result.task.func is keep.func:
            seen.append(Job.objects.get(pk=task_result.id).enqueued_by)

    task_enqueued.connect(listen)
    try:
        first = task.using(then=keep).enqueue(1)
        work()
    finally:
        task_enqueued.disconnect(listen)
    assert seen == [f"job:{first.id}"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("task", [chained.load_slowly, chained.load_slowly_async])
def test_a_job_whose_row_is_locked_for_longer_than_a_timeout_has_succeeded_once(
    work, other, marks, task, monkeypatch
):
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "options", "-c lock_timeout=100ms")
    first = task.using(then=keep.bind(RESULT)).enqueue(1)

    def lock_its_row():
        wait_for(lambda: marks() == ["began"])
        with other.transaction():
            other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [first.id])
            mark("locked")
            wait_for(lambda: timed_out)

    timed_out = []
    end = Executor._end_in_transaction

    def end_and_note(*arguments):
        try:
            return end(*arguments)
        except OperationalError as error:
            timed_out.append(error)
            raise

    monkeypatch.setattr(Executor, "_end_in_transaction", end_and_note)
    with beside(lock_its_row):
        work()
    assert isinstance(timed_out[0].__cause__, LockNotAvailable)
    assert (first.job.state, first.job.lease_epoch, first.job.errors) == (State.SUCCEEDED, 1, [])
    assert following(first).result == [[{"number": 1}], {}]
    assert marks() == ["began", "locked"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("task", [load, chained.load_async])
def test_it_is_enqueued_once_where_the_answer_to_the_commit_is_lost(work, task, monkeypatch, events, receive):
    commit, lost = DatabaseWrapper._commit, []

    def commit_and_lose(self):
        commit(self)
        is_of_a_job = threading.current_thread() is not threading.main_thread()
        if is_of_a_job and not lost and Job.objects.filter(enqueued_by__isnull=False).exists():
            lost.append(self.alias)
            self.connection.close()
            raise OperationalError("the connection was lost")

    seen = []
    receive(task_finished, note := lambda task_result, **_: seen.append((task_result.id, task_result.status)))
    first = task.using(then=keep).enqueue(1)
    monkeypatch.setattr(DatabaseWrapper, "_commit", commit_and_lose)
    work()
    assert lost
    assert first.job.state == State.SUCCEEDED
    assert (first.id, TaskResultStatus.SUCCESSFUL) in seen, note  # kept alive until here
    assert first.id in [record.job_id for record in events("worker.job_ended")]
    assert Job.objects.filter(enqueued_by=f"job:{first.id}").count() == 1


def test_a_chain_is_resumable():
    chain = chained.load_at_the_second_attempt.using(then=keep.bind(RESULT))
    assert assert_resumable(chain, 1).places
    assert_resumable(chained.load_atomically.using(then=keep.bind(RESULT)), 1)
