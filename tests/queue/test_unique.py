"""Two at once: what the index decides when transactions, claims and verbs meet on one unique key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.utils import timezone
from psycopg.errors import SerializationFailure

from pgonly_django import enqueue_many
from pgonly_django.database import notify
from pgonly_django.exceptions import UniqueKeyError
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.queue import unique as module
from pgonly_django.queue.finish import Outcome
from pgonly_django.queue.promote import promote
from tests.queue.rows import HOUR, ago, claim, claimer, finish_of, fresh, write
from tests.tasks.calls import add, hourly, per_account_once, reindex, sync_account
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


@pytest.fixture
def beside():
    """Calls a function in another thread, with a connection of its own: a future."""
    with ThreadPoolExecutor() as threads:

        def start(call, *args, **kwargs):
            def run():
                try:
                    return call(*args, **kwargs)
                finally:
                    connections.close_all()

            return threads.submit(run)

        yield start


def wait_until_blocked(other, count=1):
    """Until so many statements wait for a lock."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    wait_for(lambda: other.execute(sql).fetchone()[0] >= count)


# Transactions.


def test_a_loser_waits_for_the_winner_to_commit_and_gets_its_job(beside, other):
    with transaction.atomic():
        first = sync_account.enqueue(1)
        second = beside(sync_account.enqueue, 1)
        wait_until_blocked(other)
    assert second.result(30).is_duplicate
    assert second.result().id == first.id


def test_the_winner_rolls_back_and_a_loser_that_waits_becomes_the_winner(beside, other):
    with transaction.atomic():
        first = sync_account.enqueue(1)
        losers = [beside(sync_account.enqueue, 1) for _ in range(2)]
        wait_until_blocked(other, 2)
        transaction.set_rollback(True)
    second, third = (loser.result(30) for loser in losers)
    assert first.id not in (second.id, third.id)
    assert second.id == third.id == str(Job.objects.get().pk)
    assert [second.is_duplicate, third.is_duplicate].count(False) == 1


def test_a_loser_does_not_abort_the_transaction_of_its_caller():
    sync_account.enqueue(1)
    with transaction.atomic():
        assert sync_account.enqueue(1).is_duplicate
        add.enqueue(2)
    assert Job.objects.count() == 2


def test_a_savepoint_that_is_rolled_back_frees_the_key():
    with transaction.atomic():
        with transaction.atomic():
            sync_account.enqueue(1)
            transaction.set_rollback(True)
        assert not sync_account.enqueue(1).is_duplicate


@contextmanager
def isolation(level):
    with connection.cursor() as cursor:
        cursor.execute(f"SET default_transaction_isolation = '{level}'")
        try:
            yield
        finally:
            cursor.execute("RESET default_transaction_isolation")


LEVELS = pytest.mark.parametrize("level", ["repeatable read", "serializable"])


@LEVELS
def test_at_a_higher_isolation_level_a_duplicate_that_the_snapshot_sees_is_one(level):
    first = sync_account.enqueue(1)
    with isolation(level), transaction.atomic():
        assert sync_account.enqueue(1).id == first.id
        reindex.enqueue(1, "a")
        assert reindex.enqueue(1, "b").is_duplicate
        hourly.enqueue(1)
        assert hourly.enqueue(1).is_duplicate


@LEVELS
@pytest.mark.parametrize("task", [sync_account, reindex, hourly])
def test_at_a_higher_isolation_level_a_winner_after_the_snapshot_is_a_serialization_failure(
    level, beside, task
):
    with isolation(level):
        with pytest.raises(OperationalError) as caught, transaction.atomic():
            Job.objects.count()  # takes the snapshot
            beside(task.enqueue, 1).result(30)
            task.enqueue(1)
        assert isinstance(caught.value.__cause__, SerializationFailure)
        assert task.enqueue(1).is_duplicate, "repeated, it works"


@LEVELS
@pytest.mark.parametrize("task", [sync_account, reindex, hourly])
def test_outside_of_transactions_the_call_is_repeated_at_once(level, beside, other, task):
    with transaction.atomic():
        task.enqueue(1)

        def enqueue():
            with isolation(level):
                return task.enqueue(1)

        second = beside(enqueue)
        wait_until_blocked(other)
    assert second.result(30).is_duplicate


def test_batches_in_opposite_orders_do_not_wait_for_each_other(beside):
    one = [(sync_account, [number]) for number in range(300)]
    results = [beside(enqueue_many, calls) for calls in (one, one[::-1], one, one[::-1])]
    winners = [result for future in results for result in future.result(60) if not result.is_duplicate]
    assert len(winners) == Job.objects.count() == 300


def test_a_key_whose_period_is_over_is_given_up_once(beside, other):
    first = hourly.enqueue(1)
    Job.objects.update(unique_until=ago(SECOND))
    with transaction.atomic():
        second = hourly.enqueue(1)
        third = beside(hourly.enqueue, 1)
        wait_until_blocked(other)
    assert third.result(30).id == second.id != first.id
    assert Job.objects.count() == 2


FINISH_ALL = "UPDATE pgonly_job SET state = 'succeeded', lease_epoch = 1"
DELETE_ALL = "DELETE FROM pgonly_job"


@pytest.mark.parametrize("change", [FINISH_ALL, DELETE_ALL])
def test_a_loser_waits_for_a_change_of_the_winner_that_is_not_committed(beside, other, server, change):
    first = sync_account.enqueue(1)
    with server.transaction():
        server.execute(change)
        second = beside(sync_account.enqueue, 1)
        wait_until_blocked(other)
    assert not second.result(30).is_duplicate
    assert second.result().id != first.id


def around_statements(before_or_after):
    """Calls it with the verb of each statement that enqueue() sends, and whether it has been executed."""

    def wrapper(execute, sql, params, many, context):
        verb = "INSERT" if "INSERT" in sql else sql.split()[0]
        before_or_after(verb, done=False)
        answer = execute(sql, params, many, context)
        before_or_after(verb, done=True)
        return answer

    return connection.execute_wrapper(wrapper)


@pytest.mark.parametrize("change", [FINISH_ALL, DELETE_ALL])
def test_a_winner_that_is_gone_before_the_look_for_it_makes_the_loser_the_winner(other, change):
    first = sync_account.enqueue(1)
    changes = [change]

    def after_the_insert(verb, done):
        if verb == "INSERT" and done and changes:
            other.execute(changes.pop())

    with around_statements(after_the_insert):
        second = sync_account.enqueue(1)
    assert not second.is_duplicate
    assert second.id != first.id


def test_winners_that_come_and_go_without_end_are_an_error(other):
    sync_account.enqueue(1)
    key = Job.objects.get().unique_key

    def come_and_go(verb, done):
        if done:
            return
        state = "ready" if verb == "INSERT" else "succeeded"
        other.execute("UPDATE pgonly_job SET state = %s WHERE unique_key = %s", [state, key])

    with around_statements(come_and_go), pytest.raises(UniqueKeyError, match="taken and given up again"):
        sync_account.enqueue(1)


# Debounce against workers.


def claimed(server):
    return claim(server, claimer())


def test_a_claim_that_comes_first_keeps_its_arguments_and_the_call_makes_another_job(beside, other, server):
    first = reindex.enqueue(7, "a")
    Job.objects.update(state=State.READY)
    with server.transaction():
        (row,) = claimed(server)
        second = beside(reindex.enqueue, 7, "b")
        wait_until_blocked(other)
    assert row.args == [7, "a"]
    assert not second.result(30).is_duplicate
    assert [fresh(first.job).args, fresh(second.result().job).args] == [[7, "a"], [7, "b"]]


def test_a_call_that_comes_first_keeps_the_claim_away(server):
    reindex.enqueue(7, "a")
    Job.objects.update(state=State.READY)
    with transaction.atomic():
        reindex.enqueue(7, "b")
        assert claimed(server) == []
    assert claimed(server) == []
    assert Job.objects.get().state == State.SCHEDULED


def test_a_promotion_and_a_call_do_not_undo_each_other(beside, other, server):
    first = reindex.enqueue(7, "a")
    Job.objects.update(run_at=ago(SECOND))
    with server.transaction():
        promote(server)
        second = beside(reindex.enqueue, 7, "b")
        wait_until_blocked(other)
    assert second.result(30).id == first.id
    row = Job.objects.get()
    assert (row.state, row.args) == (State.SCHEDULED, [7, "b"])
    assert row.run_at > timezone.now() + MINUTE - 10 * SECOND


def test_the_promotion_comes_when_the_moved_time_is_due(server):
    reindex.enqueue(7, "a")
    Job.objects.update(run_at=ago(-SECOND))
    reindex.enqueue(7, "b")
    promoted = promote(server)
    assert promoted.jobs == 0
    assert 50 < promoted.next_due_in_seconds <= 60
    Job.objects.update(run_at=ago(SECOND))
    assert promote(server).jobs == 1
    assert [row.args for row in claimed(server)] == [[7, "b"]]


def heard(other, expected):
    """Waits until the notifications that came are these."""
    came = []

    def look():
        came.extend(notification.payload for notification in other.notifies(timeout=0.1))
        return came

    wait_for(look, what="a NOTIFY")
    assert set(came) == {expected}


def test_each_call_tells_the_workers_when_the_job_is_due(other):
    other.execute(f"LISTEN {notify.CHANNEL}")
    for reason in ("a", "b"):
        reindex.enqueue(7, reason)
        heard(other, notify.DUE)


def test_a_new_unique_job_wakes_the_workers_and_a_duplicate_does_not(other):
    other.execute(f"LISTEN {notify.CHANNEL}")
    unique = sync_account.using(queue_name="awake")
    unique.enqueue(1)
    heard(other, "ready awake")
    unique.enqueue(1)
    add.using(queue_name="mark").enqueue(1)
    heard(other, "ready mark")


def test_a_job_that_is_unique_and_limited_wakes_those_who_claim_limited_jobs(other):
    other.execute(f"LISTEN {notify.CHANNEL}")
    limited = sync_account.using(queue_name="narrow", concurrency_key="{account_id}")
    limited.enqueue(1)
    heard(other, notify.limited("narrow"))
    enqueue_many([(limited, [2])])
    heard(other, notify.limited("narrow"))


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


def test_a_batch_is_cut_where_it_would_be_too_long_for_one_statement(monkeypatch):
    monkeypatch.setattr(module, "JOBS_AT_ONCE", 3)
    calls = [(sync_account, [f"{number}"]) for number in range(8)]
    results = enqueue_many(calls)
    assert [result.args for result in results] == [args for _, args in calls]
    assert Job.objects.count() == len(calls)


def test_unique_jobs_of_a_batch_are_claimed_in_the_order_of_their_calls(server):
    enqueue_many([(sync_account, [number]) for number in (5, 1, 4, 2, 3)])
    rows = sorted(claimed(server), key=lambda row: (row.ready_at, row.id))
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
