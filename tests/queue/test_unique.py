"""Two at once: what the index decides when transactions, claims and verbs meet on one unique key."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from psycopg.errors import SerializationFailure

from pgonly_django import enqueue_many, redrive
from pgonly_django.database import notify
from pgonly_django.exceptions import UniqueKeyError
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.queue import unique
from pgonly_django.queue.promote import promote
from tests.queue.rows import MINUTE, SECOND, ago, claim, claimer, fresh, wait_until_blocked
from tests.tasks.calls import add, hourly, reindex, sync_account
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


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


def enqueue_all(*numbers):
    return sum(not result.is_duplicate for result in enqueue_many([(sync_account, [n]) for n in numbers]))


def ending_deadlocks_after(timeout, call, *args):
    """The call, in a session that ends its transaction when it has waited so long in a deadlock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('deadlock_timeout', %s, false)", [timeout])
    return call(*args)


@pytest.mark.parametrize("of_caller", [nullcontext, transaction.atomic])
@pytest.mark.parametrize(
    "call",
    [
        lambda: Job.objects.failed().retry(),
        lambda: redrive(Job.objects.all()).jobs,
        lambda: enqueue_all(1, 2, 3),
    ],
    ids=["retry", "redrive", "enqueue_many"],
)
def test_what_meets_another_transaction_in_a_deadlock_is_repeated(beside, other, call, of_caller):
    """It takes the first key and waits for the second; the other one takes the third, and waits for the first."""
    if "enqueue_all" not in call.__code__.co_names:
        enqueue_all(1, 2, 3)
        Job.objects.update(state=State.FAILED)

    def repeated():
        with of_caller():
            return call()

    def crossing():
        with transaction.atomic():
            return enqueue_all(3), enqueue_all(1)

    with transaction.atomic():
        enqueue_all(2)
        first = beside(ending_deadlocks_after, "10ms", repeated)
        wait_until_blocked(other, 1)
        second = beside(ending_deadlocks_after, "10min", crossing)
        wait_until_blocked(other, 2)
        transaction.set_rollback(True)
    assert (first.result(30), second.result(30)) == (1, (1, 1))
    assert Job.objects.filter(state=State.READY).count() == 3


def test_a_batch_is_cut_where_it_would_be_too_long_for_one_statement(monkeypatch):
    monkeypatch.setattr(unique, "CHARACTERS_AT_ONCE", 1000)
    monkeypatch.setattr(unique, "JOBS_AT_ONCE", 3)
    sizes = [10, 10, 10, 10, 3000, 400, 400, 400, 1, 1, 1, 1]
    calls = [(sync_account, [f"{number}" * size]) for number, size in enumerate(sizes)]
    written, write = [], unique._write
    monkeypatch.setattr(unique, "_write", lambda alias, batch: written.append(batch) or write(alias, batch))
    results = enqueue_many(calls)
    assert [result.args for result in results] == [args for _, args in calls]
    assert Job.objects.count() == len(calls)
    lengths = [[len(job.args) + len(job.kwargs) for _, job in batch] for batch in written]
    assert all(len(batch) == 1 or (len(batch) <= 3 and sum(batch) <= 1000) for batch in lengths)


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
