"""Unique jobs from their enqueue to a retry, and many in one call."""

from __future__ import annotations

import pytest
from django.db import transaction

from pgonly_django import enqueue_many
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from tests.queue.rows import HOUR, SECOND, ago, claim, claimer, finish_of, fresh, wait_until_blocked, write
from tests.tasks.calls import add, hourly, per_account_once, reindex, sync_account

pytestmark = pytest.mark.django_db(transaction=True)


def claimed(server):
    return claim(server, claimer())


# A job's life against the index.

ENDS = [
    (Outcome.SUCCEEDED, State.SUCCEEDED),
    (Outcome.FAILED, State.FAILED),
    (Outcome.FAILED, State.SCHEDULED),
    (Outcome.SNOOZED, State.SCHEDULED),
    (Outcome.RELEASED, State.READY),
    (Outcome.HELD, State.HELD),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("outcome", "state"), ENDS)
@pytest.mark.parametrize("until", ["waiting", "unfinished", "retained"])
def test_no_end_of_a_run_conflicts_with_a_job_that_has_the_key_by_then(server, until, outcome, state):
    unique = sync_account.using(unique_while=until)
    unique.enqueue(1)
    (row,) = claimed(server)
    second = unique.enqueue(1)
    assert second.is_duplicate is (until != "waiting")
    extra = {"delay_seconds": 9.0} if state == State.SCHEDULED else {}
    assert write(server, finish_of(row, outcome, state, **extra, entry="{}")) == 1
    third = unique.enqueue(1)
    is_over = state in (State.SUCCEEDED, State.FAILED)
    assert third.is_duplicate is (until != "unfinished" or not is_over)


# retry().


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
@pytest.mark.parametrize(
    ("until", "lease_epoch", "retried"),
    [
        ("waiting", 0, False),
        ("waiting", 1, True),
        ("unfinished", 0, False),
        ("unfinished", 1, False),
        ("retained", 1, True),
    ],
)
def test_retry_leaves_a_job_alone_whose_key_another_one_has(state, until, lease_epoch, retried):
    unique = sync_account.using(unique_while=until)
    first = unique.enqueue(1)
    other = add.enqueue(1)
    Job.objects.update(state=state, lease_epoch=lease_epoch)
    assert unique.enqueue(1).is_duplicate is (until == "retained")
    assert Job.objects.filter(state=state).retry() == 1 + retried
    assert fresh(first.job).state == (State.READY if retried else state)
    assert fresh(other.job).state == State.READY
    assert first.retry() is False


def test_retry_brings_the_newest_of_several_with_one_key_back():
    ids = []
    for _ in range(3):
        ids.append(sync_account.enqueue(1).id)
        Job.objects.filter(state=State.READY).update(state=State.FAILED, lease_epoch=1)
    assert Job.objects.retry() == 1
    assert [str(pk) for pk in Job.objects.filter(state=State.READY).values_list("pk", flat=True)] == ids[-1:]
    assert Job.objects.retry() == 0


def test_a_later_one_that_succeeded_keeps_none_from_being_retried():
    failed = sync_account.enqueue(1)
    Job.objects.update(state=State.FAILED, lease_epoch=1)
    sync_account.enqueue(1)
    Job.objects.filter(state=State.READY).update(state=State.SUCCEEDED, lease_epoch=1)
    assert Job.objects.retry() == 1
    assert fresh(failed.job).state == State.READY


def test_a_caller_whose_retry_lost_can_go_on_in_its_transaction(beside, other):
    first = sync_account.enqueue(1)
    Job.objects.update(state=State.FAILED, lease_epoch=1)

    def retry():
        with transaction.atomic():
            add.enqueue(1)
            return first.retry()

    with transaction.atomic():
        sync_account.enqueue(1)
        retried = beside(retry)
        wait_until_blocked(other)
    assert retried.result(30) is False
    assert Job.objects.filter(task__endswith="add").count() == 1


# enqueue_many().


def test_unique_and_plain_calls_come_back_in_order():
    sync_account.enqueue(3)
    calls = [(add, [0]), (sync_account, [1]), (sync_account, [1]), (reindex, [7, "a"]), (add, [4]),
             (sync_account, [3]), (reindex, [7, "b"]), (hourly, [1]), (per_account_once, [1], {"page": 2})]  # fmt: skip
    results = enqueue_many(calls)
    assert [result.is_duplicate for result in results] == [
        False, False, True, False, False, True, True, False, False,
    ]  # fmt: skip
    assert results[1].id == results[2].id
    assert results[3].id == results[6].id
    assert [result.args for result in results[:6]] == [[0], [1], [1], [7, "b"], [4], [3]]
    assert fresh(results[3].job).args == [7, "b"]
    assert Job.objects.count() == 7
    for result in results:
        result.refresh()


def test_a_thousand_unique_jobs_take_a_few_statements(django_assert_max_num_queries):
    calls = [(sync_account, [number]) for number in range(1000)]
    with django_assert_max_num_queries(4):
        enqueue_many(calls)
    with django_assert_max_num_queries(6):
        assert all(result.is_duplicate for result in enqueue_many(calls))
    assert Job.objects.count() == 1000


def test_unique_jobs_of_a_batch_are_claimed_in_the_order_of_their_calls(server):
    enqueue_many([(sync_account, [number]) for number in (5, 1, 4, 2, 3)])
    rows = sorted(claimed(server), key=lambda row: (row.ready_timestamp, row.id))
    assert [row.args for row in rows] == [[5], [1], [4], [2], [3]]


def test_one_bad_call_among_unique_ones_writes_nothing():
    with pytest.raises(ZeroDivisionError):
        enqueue_many([(sync_account, [1]), (add.using(unique=lambda a: 1 / a), [0])])
    assert not Job.objects.exists()


def test_a_key_counts_as_its_row_says_also_where_the_code_says_something_else_by_now():
    first = sync_account.using(unique_while="retained", unique_for=HOUR).enqueue(1)
    Job.objects.update(state=State.SUCCEEDED, lease_epoch=1)
    assert sync_account.enqueue(1).id == first.id
    Job.objects.update(unique_until=ago(SECOND))
    assert not sync_account.enqueue(1).is_duplicate
