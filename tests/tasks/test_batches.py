from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from pgonly_django import Batch, enqueue_many, redrive
from pgonly_django.exceptions import BatchFinishedError, OptionError, WrongArgumentsError
from pgonly_django.models import Job, JobBatch, State
from pgonly_django.monitoring.progress import progress_of
from tests.jobs import add, batching

pytestmark = pytest.mark.django_db

NOTES = {name: batching.note.bind(name) for name in ("on_success", "on_failure", "on_finish")}


def test_bind_makes_a_call_that_enqueue_many_takes(run_jobs):
    results = enqueue_many([add.bind(2, b=3), add.using(priority=7).bind(1), (add, [5])])
    run_jobs()
    assert [Job.objects.get(pk=each.id).result for each in results] == [5, 2, 6]
    assert [each.job.priority for each in results] == [0, 7, 0]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([batching.member], ["on_finish", "on_success"]),
        ([batching.member, batching.fail], ["on_failure", "on_finish"]),
        ([], ["on_finish", "on_success"]),
    ],
)
def test_the_callbacks_follow_from_how_the_members_ended(run_jobs, marks, members, expected):
    with Batch(**NOTES) as batch:
        batch.enqueue_many([task.bind(1) for task in members])
    run_jobs()
    assert sorted(marks()) == expected
    assert batch.row.finished_at is not None
    assert sorted(batch.row.sent) == expected


def test_a_batch_has_a_name_for_people():
    with Batch(name="Papers of May") as batch:
        pass
    assert (batch.row.name, str(batch.row), batch.row.made_by) == ("Papers of May", "Papers of May", "")
    assert str(JobBatch(id=batch.id)) == f"batch {batch.id}"


@pytest.mark.parametrize("name", ["x" * 256, 7, None, "a\x00", "\ud800"])
def test_a_name_that_no_row_can_have_is_refused(name):
    with pytest.raises(WrongArgumentsError, match="name must be a text of at most 255 characters"):
        Batch(name=name)


def test_a_callback_may_be_a_task_and_knows_its_batch(run_jobs, marks):
    batch = Batch(on_failure=batching.note_batch)
    batch.enqueue_many([batching.member.bind(1), batching.fail.bind(2)])
    run_jobs()
    assert marks() == [f"{batch.id} ['SUCCESSFUL', 'FAILED']"]
    callback = Job.objects.get(task=batching.note_batch.module_path)
    assert callback.enqueued_by == f"batch:{batch.id}"
    assert callback.batch_id is None


def test_a_callback_keeps_the_options_of_its_call(run_jobs):
    call = batching.note.using(queue_name="letters", priority=3, max_attempts=2, metadata={"a": "ä"})
    batch = Batch(on_finish=call.bind("it's 100 % \\ done"))
    batch.enqueue_many([])
    run_jobs("default")
    job = Job.objects.get(queue="letters")
    assert (job.priority, job.max_attempts, job.metadata) == (3, 2, {"a": "ä"})
    assert (job.args, job.kwargs, job.state, job.attempt) == (["it's 100 % \\ done"], {}, State.READY, 0)


def test_outside_of_a_batch_no_job_has_one(run_jobs):
    assert Batch.current() is None
    result = add.enqueue(1)
    run_jobs()
    assert result.job.batch_id is None


def test_results_come_in_the_order_of_enqueue_in_pages(run_jobs, monkeypatch):
    monkeypatch.setattr("pgonly_django.tasks.batches.PAGE", 3)
    batch = Batch()
    enqueued = batch.enqueue_many([batching.member.bind(number) for number in range(6)])
    enqueued.append(batch.enqueue(batching.member, 6))
    run_jobs()
    results = list(batch.results())
    assert [each.id for each in results] == [each.id for each in enqueued]
    assert [each.return_value for each in results] == list(range(7))


def test_members_may_add_members(run_jobs, marks):
    with Batch(**NOTES) as batch:
        batch.enqueue(batching.split, 3)
    run_jobs()
    assert batch.jobs.count() == 15
    assert sorted(marks()) == ["on_finish", "on_success"]


def test_a_batch_that_has_finished_takes_no_more_jobs(run_jobs):
    batch = Batch()
    batch.enqueue(batching.member, 1)
    run_jobs()
    with pytest.raises(BatchFinishedError, match=batch.id):
        batch.enqueue(batching.member, 2)
    assert batch.jobs.count() == 1


def test_a_retried_member_opens_its_batch_again_and_each_callback_comes_once(run_jobs, marks):
    batch = Batch(**NOTES)
    batch.enqueue_many([batching.fail_unless_marked.bind("fixed"), batching.member.bind(1)])
    run_jobs()
    assert sorted(marks()) == ["on_failure", "on_finish"]
    assert batch.jobs.failed().retry() == 1
    assert batch.row.finished_at is None
    run_jobs()
    assert sorted(marks()) == ["on_failure", "on_finish"], "it has failed again"
    batching.mark("fixed")
    batch.jobs.failed().retry()
    batch.enqueue(batching.member, 2)  # it is open
    run_jobs()
    assert sorted(marks()) == ["fixed", "on_failure", "on_finish", "on_success"]
    assert batch.row.closes == 3


def test_a_redriven_member_opens_its_batch_again(run_jobs):
    batch = Batch()
    batch.enqueue(batching.fail, 1)
    run_jobs()
    assert redrive(batch.jobs).jobs == 1
    assert batch.row.finished_at is None


def test_cancel_takes_the_members_along_and_the_batch_ends(run_jobs, marks):
    with Batch(**NOTES) as batch:
        batch.enqueue_many([batching.member.bind(number) for number in range(3)])
    alone = add.enqueue(1)
    assert batch.cancel() == 3
    assert batch.row.cancelled_at is not None
    with pytest.raises(BatchFinishedError):
        batch.enqueue(batching.member, 4)
    run_jobs()
    assert set(batch.jobs.values_list("state", flat=True)) == {State.CANCELLED}
    assert alone.job.state == State.SUCCEEDED
    assert sorted(marks()) == ["on_failure", "on_finish"]


def test_a_rolled_back_block_leaves_nothing_and_the_batch_can_be_filled_again(run_jobs, marks):
    batch = Batch(on_finish=NOTES["on_finish"])
    with pytest.raises(ZeroDivisionError), batch:
        batch.enqueue(batching.member, 1 / 0)
    assert not JobBatch.objects.exists()
    batch.enqueue(batching.member, 1)
    run_jobs()
    assert marks() == ["on_finish"]


def test_a_batch_that_was_never_filled_is_not_stored():
    Batch(**NOTES)
    assert not JobBatch.objects.exists()


def test_progress_counts_the_members_by_their_states(run_jobs):
    batch = Batch()
    assert progress_of(batch).percent is None
    batch = Batch()
    batch.enqueue_many([batching.member.bind(1), batching.fail.bind(2), add.bind(3)])
    run_jobs(max_jobs=2)
    seen = progress_of(batch.row)
    assert (seen.total, seen.waiting, seen.running, seen.done, seen.percent) == (3, 1, 0, 2, 66)
    assert (seen.succeeded, seen.failed, seen.cancelled) == (1, 1, 0)


def test_unique_jobs_are_refused():
    with pytest.raises(OptionError, match="unique"):
        Batch().enqueue_many([batching.member.bind(1), batching.unique.bind(1)])
    with pytest.raises(OptionError, match="unique"):
        Batch(on_finish=batching.unique.bind(1))
    assert not Job.objects.exists()
    Batch().enqueue(batching.unique.using(unique=None), 1)
    assert Job.objects.get().unique_key is None


@pytest.mark.parametrize("callback", ["tests.jobs.add", lambda: None, (add, [1])])
def test_a_callback_is_a_task_or_a_call(callback):
    with pytest.raises(WrongArgumentsError, match="on_finish must be a task"):
        Batch(on_finish=callback)


def test_a_callback_with_wrong_arguments_is_refused_at_once():
    with pytest.raises(WrongArgumentsError, match="member"):
        Batch(on_success=batching.member)


def test_a_batch_in_another_database_is_refused():
    with pytest.raises(WrongArgumentsError, match="the batch is in 'elsewhere'"):
        Batch(using="elsewhere").enqueue(add, 1)


def test_a_batch_of_one_transaction_is_one_copy(django_assert_max_num_queries):
    calls = [batching.member.bind(number) for number in range(1000)]
    with django_assert_max_num_queries(7):  # 4 of savepoints, the row, the clock, the COPY
        Batch().enqueue_many(calls)


def test_a_block_makes_its_row_once_and_adds_to_it_in_few_statements(django_assert_max_num_queries):
    # 2 of savepoints, the row; for each job its lock, 2 of savepoints, the clock, the COPY
    with django_assert_max_num_queries(3 + 3 * 5), Batch() as batch:
        for number in range(3):
            batch.enqueue(add, number)
    assert batch.jobs.count() == 3


def test_the_async_twins_do_the_same():
    async def main():
        batch = Batch()
        await batch.aenqueue(batching.member, 1)
        await batch.aenqueue_many([batching.member.bind(2)])
        return await batch.acancel()

    assert async_to_sync(main)() == 2


@pytest.mark.django_db(transaction=True)
def test_other_transactions_add_at_the_same_time(other):
    batch = Batch()
    batch.enqueue(batching.member, 1)
    with other.transaction():
        other.execute("SELECT FROM pgonly_batch WHERE id = %s FOR SHARE", [batch.id])
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '1s'")
            batch.enqueue(batching.member, 2)
    assert batch.jobs.count() == 2
