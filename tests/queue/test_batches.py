"""The statements that close batches, against rows, and every order of two that meet."""

from __future__ import annotations

import json
from functools import partial
from uuid import UUID

import pytest
from django.db import transaction

from pgonly_django import redrive
from pgonly_django.database import notify
from pgonly_django.exceptions import BatchFinishedError
from pgonly_django.models import Job, JobBatch, State
from pgonly_django.models.batch import lock
from pgonly_django.queue import batches
from pgonly_django.queue.batches import prune, sweep
from pgonly_django.queue.prune import prune as prune_jobs
from pgonly_django.queue.prune import prune_now
from pgonly_django.tasks.batches import callback
from pgonly_django.tasks.bound import stored
from tests.jobs import add
from tests.queue.rows import (
    HOUR,
    MINUTE,
    ago,
    claim,
    claimer,
    finish_of,
    ids,
    make,
    make_running,
    wait_until_blocked,
    write,
)


@pytest.fixture
def batch(server):
    return JobBatch.objects.create(callbacks=callbacks("on_finish", "on_success", "on_failure"))


def callbacks(*names):
    return {name: json.loads(stored(add.bind(1), "default")) for name in names}


def close(server, ids):
    return batches.close(server, ids, callback)


def closed(server, batch):
    return list(close(server, [str(batch.pk)]).batches)


def sent(batch):
    batch.refresh_from_db()
    jobs = {str(pk): name for name, pk in batch.sent.items()}
    return sorted(jobs[str(job.pk)] for job in Job.objects.filter(pk__in=jobs))


@pytest.mark.parametrize("state", ["scheduled", "ready", "running", "held"])
def test_a_batch_with_an_unfinished_member_stays_open(server, batch, state):
    if state == "running":
        make_running(batch_id=batch.pk)
    else:
        make(batch_id=batch.pk, state=state, run_at=ago(-HOUR))
    make(batch_id=batch.pk, state=State.SUCCEEDED)
    assert closed(server, batch) == []
    assert sweep(server) == ([], [], True)
    assert sent(batch) == []


def test_the_claim_of_a_callback_waits_for_the_disk_and_the_closing_does_not(server, batch):
    with server.transaction():
        assert closed(server, batch) == [str(batch.pk)]
        assert server.execute("SHOW synchronous_commit").fetchone() == ("off",)
    with server.transaction():
        assert claim(server, claimer())
        assert server.execute("SHOW synchronous_commit").fetchone() == ("on",)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["succeeded", "succeeded"], ["on_finish", "on_success"]),
        (["succeeded", "failed"], ["on_failure", "on_finish"]),
        (["cancelled"], ["on_failure", "on_finish"]),
        ([], ["on_finish", "on_success"]),
    ],
)
def test_it_is_closed_once_and_its_callbacks_are_enqueued_with_it(server, batch, states, expected):
    for state in states:
        make(batch_id=batch.pk, state=state)
    assert sweep(server).over == [str(batch.pk)]
    result = close(server, [str(batch.pk)])
    assert result.batches == {str(batch.pk): "on_failure" in expected}
    assert result.payloads == {"ready default"}
    assert sent(batch) == expected
    assert closed(server, batch) == []
    assert sweep(server) == ([], [], False)
    assert Job.objects.filter(batch_id=None).count() == 2


def test_many_are_closed_in_one_transaction(server, batch):
    others = [JobBatch.objects.create() for _ in range(3)]
    make(batch_id=others[0].pk)
    result = close(server, [str(each.pk) for each in (batch, *others)])
    assert set(result.batches) == {str(each.pk) for each in (batch, *others[1:])}


def test_the_end_of_one_of_two_last_members_does_not_close_it(server, batch):
    """Both ends are written, and each worker looks after its own: whoever looks last closes."""
    first, second = (make_running(batch_id=batch.pk) for _ in range(2))
    write(server, finish_of(first))
    assert closed(server, batch) == []
    write(server, finish_of(second))
    assert closed(server, batch) == [str(batch.pk)]
    assert closed(server, batch) == []


def test_an_end_that_is_not_committed_keeps_it_open(server, other, batch):
    job = make_running(batch_id=batch.pk)
    with other.transaction():
        write(other, finish_of(job))
        assert closed(server, batch) == []
    assert closed(server, batch) == [str(batch.pk)]


def test_a_member_that_is_not_committed_yet_keeps_it_open(server, batch):
    with transaction.atomic():
        batches.lock_to_add("default", str(batch.pk))
        make(batch_id=batch.pk)
        result = close(server, [str(batch.pk)])
        assert (result.batches, result.locked) == ({}, [str(batch.pk)])
    assert closed(server, batch) == []


def test_a_member_that_comes_between_the_look_and_the_lock_keeps_it_open(server, batch, monkeypatch):
    execute = server.execute

    def add_before_the_lock(query, *args, **options):
        if query == batches.LOCK:
            make(batch_id=batch.pk)
        return execute(query, *args, **options)

    monkeypatch.setattr(server, "execute", add_before_the_lock)
    assert closed(server, batch) == []
    assert sent(batch) == []


def test_whoever_adds_while_it_is_closed_waits_and_is_refused(server, other, batch, beside):
    with server.transaction():
        assert closed(server, batch) == [str(batch.pk)]
        adding = beside(add_to, batch)
        wait_until_blocked(other)
    with pytest.raises(BatchFinishedError):
        adding.result(10)


def add_to(batch):
    with transaction.atomic():
        batches.lock_to_add("default", str(batch.pk))


def test_a_retry_that_is_not_committed_yet_keeps_it_open(server, batch):
    job = make(batch_id=batch.pk, state=State.FAILED)
    with transaction.atomic():
        assert Job.objects.filter(pk=job.pk).retry() == 1
        result = close(server, [str(batch.pk)])  # it is over by the rows that are committed
        assert (result.batches, result.locked) == ({}, [str(batch.pk)])
    assert closed(server, batch) == []


def test_a_retry_that_began_before_it_was_closed_opens_it_again(server, other, batch, beside):
    job = make(batch_id=batch.pk, state=State.FAILED)
    with server.transaction():
        assert closed(server, batch) == [str(batch.pk)]
        retrying = beside(Job.objects.filter(pk=job.pk).retry)
        wait_until_blocked(other)
    assert retrying.result(10) == 1
    batch.refresh_from_db()
    assert batch.finished_at is None


def test_a_retry_leaves_a_member_alone_that_fails_in_the_middle_of_it(server, batch):
    """Its batch was not opened by this retry, and may be closed by now."""
    job = make_running(batch_id=batch.pk)
    jobs = Job.objects.filter(pk=job.pk)
    condition = jobs._of_reopened_batches()
    Job.objects.filter(pk=job.pk).update(state=State.FAILED)
    assert not jobs.filter(condition).exists()


def test_a_retry_waits_for_a_cancel_of_its_finished_batch(server, other, batch, beside):
    """Between the two writes of the cancel it would lose its member, and the batch would be open for more."""
    job = make(batch_id=batch.pk, state=State.FAILED)
    assert closed(server, batch) == [str(batch.pk)]
    with transaction.atomic():
        assert batches.cancel("default", [batch.pk]) == 0
        retrying = beside(Job.objects.filter(pk=job.pk).retry)
        wait_until_blocked(other)
    assert retrying.result(10) == 1
    batch.refresh_from_db()
    assert (batch.finished_at, batch.cancelled_at) == (None, None)


@pytest.mark.parametrize("end", ["cancel", "discard"])
def test_of_so_many_batches_the_workers_are_told_at_once(db, monkeypatch, end):
    """Each is a NOTIFY, and the sweep finds the others."""
    monkeypatch.setattr("pgonly_django.models.job.BATCHES_TOLD", 2)
    told = []
    monkeypatch.setattr(notify, "wake_after_commit", lambda alias, payload: told.append(payload))
    rows = [JobBatch.objects.create() for _ in range(3)]
    for row in rows:
        make(batch_id=row.pk), make(batch_id=row.pk)
    assert getattr(Job.objects, end)() == 6
    assert len({*told} & {notify.batch(str(row.pk)) for row in rows}) == 2


def test_a_cancelled_parent_leaves_its_batch_to_the_sweep(server):
    parent = make(state=State.CANCELLED)
    batch = JobBatch.objects.create(parent=parent, name="papers")
    job = make(batch_id=batch.pk)
    assert sweep(server).orphaned == [str(batch.pk)]
    assert batches.cancel("default", [batch.pk]) == 1
    job.refresh_from_db()
    assert job.state == State.CANCELLED
    assert sweep(server) == ([str(batch.pk)], [], True)


@pytest.mark.parametrize(
    "by", [prune_jobs, lambda server: prune_now(server, ids(Job.objects.filter(state="succeeded")))]
)
def test_the_pruner_spares_the_members_of_an_open_batch_and_those_of_an_unfinished_parent(server, batch, by):
    parent = make()
    gathered = JobBatch.objects.create(parent=parent, name="papers", finished_at=ago(MINUTE))
    over = JobBatch.objects.create(finished_at=ago(MINUTE))
    facts = {"state": State.SUCCEEDED, "delete_after": ago(HOUR)}
    kept = [make(batch_id=each.pk, **facts) for each in (batch, gathered)]
    for batch_id in (over.pk, None, make().pk):  # the last one is of no batch that is there
        make(batch_id=batch_id, **facts)
    assert by(server).deleted == 3
    assert set(Job.objects.filter(state="succeeded")) == set(kept)
    assert not Job.objects.filter(pk__in=ids(kept), delete_after__lt=ago(-30 * MINUTE)).exists()
    Job.objects.filter(pk=parent.pk).update(state=State.SUCCEEDED)
    JobBatch.objects.update(finished_at=ago(MINUTE))
    Job.objects.filter(pk__in=ids(kept)).update(delete_after=ago(HOUR))
    assert prune_jobs(server).deleted == 2


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
@pytest.mark.parametrize("is_callback", [False, True])
def test_the_pruner_spares_members_while_a_retry_may_read_them(server, state, is_callback):
    """Or the retry of a gather would enqueue them again, and pay for them."""
    reader = make(state=state, delete_after=ago(-HOUR * 24 * 80))
    reads = {"sent": {"on_finish": str(reader.pk)}} if is_callback else {"parent": reader, "name": "papers"}
    gathered = JobBatch.objects.create(finished_at=ago(MINUTE), **reads)
    member = make(batch_id=gathered.pk, state=State.SUCCEEDED, delete_after=ago(HOUR))
    assert prune_jobs(server) == (0, [], 1)
    member.refresh_from_db()
    assert member.delete_after == reader.delete_after
    Job.objects.update(delete_after=ago(HOUR))
    assert prune_jobs(server) == (1, [], 1)
    Job.objects.update(delete_after=ago(HOUR))
    assert prune_jobs(server) == (1, [], 0)


def test_members_stay_beside_a_failed_job_that_another_one_keeps(server):
    """A gathered job may gather itself. Its own members have no reader but it."""
    first = make(state=State.FAILED, delete_after=ago(-HOUR * 24 * 80))
    outer = JobBatch.objects.create(parent=first, name="chunks", finished_at=ago(MINUTE))
    second = make(batch_id=outer.pk, state=State.CANCELLED, delete_after=ago(HOUR))
    inner = JobBatch.objects.create(parent=second, name="papers", finished_at=ago(MINUTE))
    make(batch_id=inner.pk, state=State.SUCCEEDED, delete_after=ago(HOUR))
    assert prune_jobs(server) == (0, [], 2)


def test_a_member_that_a_person_deletes_stays_only_for_an_unfinished_reader(server):
    for state in (State.FAILED, State.READY):
        reader = make(state=state, delete_after=None if state == State.READY else ago(-HOUR))
        gathered = JobBatch.objects.create(parent=reader, name="papers", finished_at=ago(MINUTE))
        make(batch_id=gathered.pk, state=State.SUCCEEDED)
    assert prune_now(server, ids(Job.objects.filter(state=State.SUCCEEDED))).deleted == 1
    assert Job.objects.get(state=State.SUCCEEDED).batch_id == gathered.pk


def test_members_of_a_failed_job_that_is_kept_are_looked_at_once_a_day(server):
    reader = make(state=State.FAILED)
    gathered = JobBatch.objects.create(parent=reader, name="papers", finished_at=ago(MINUTE))
    member = make(batch_id=gathered.pk, state=State.SUCCEEDED, delete_after=ago(HOUR))
    assert prune_jobs(server) == (0, [], 1)
    member.refresh_from_db()
    assert member.delete_after > ago(-23 * HOUR)


def test_the_pruner_spares_members_until_the_callbacks_have_read_them(server, batch):
    reader = make()
    JobBatch.objects.update(finished_at=ago(MINUTE), sent={"on_finish": str(reader.pk)})
    member = make(batch_id=batch.pk, state=State.SUCCEEDED, delete_after=ago(HOUR))
    assert prune_jobs(server) == (0, [], 1)
    Job.objects.filter(pk=reader.pk).update(state=State.SUCCEEDED)
    Job.objects.filter(pk=member.pk).update(delete_after=ago(HOUR))
    assert prune_jobs(server) == (1, [], 0)


def test_spared_members_are_counted_so_that_a_round_continues(server, batch):
    """A round ends after a page that is not full."""
    for hours in (9, 8):
        make(batch_id=batch.pk, state=State.SUCCEEDED, delete_after=ago(hours * HOUR))
    make(state=State.SUCCEEDED, delete_after=ago(HOUR))
    assert prune_jobs(server, limit=2).found == 2
    assert prune_jobs(server, limit=2).deleted == 1


def test_the_pruner_waits_for_no_one_who_retries_a_member_of_a_gather(server, other):
    """Whoever retries has locked the batch, and waits for the member, which the pruner has locked."""
    expired = {"state": State.FAILED, "delete_after": ago(HOUR)}
    parent = make(**expired)
    gathered = JobBatch.objects.create(parent=parent, name="papers", finished_at=ago(MINUTE))
    make(batch_id=gathered.pk, **expired), make(**expired)
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("SELECT FROM pgonly_batch FOR NO KEY UPDATE")
        assert prune_jobs(server) == (1, [], 2)
    for left in (1, 0):
        Job.objects.update(delete_after=ago(HOUR))
        assert prune_jobs(server) == (1, [], left)
    assert not JobBatch.objects.exists()


@pytest.mark.parametrize("write", [Job.objects.retry, partial(redrive, Job.objects.all())])
def test_whoever_makes_members_unfinished_locks_the_batch_before_them(other, batch, beside, write):
    make(batch_id=batch.pk, state=State.FAILED)
    with transaction.atomic():
        lock("default", [batch.pk])
        writing = beside(write)
        wait_until_blocked(other)
        Job.objects.update(priority=1)
    writing.result(10)
    assert Job.objects.get().state == State.READY


@pytest.mark.parametrize(
    "write",
    [
        Job.objects.retry,
        partial(redrive, Job.objects.all()),
        partial(batches.cancel, "default", [UUID(int=2), UUID(int=1)]),
    ],
)
def test_several_batches_are_locked_in_the_order_of_their_ids(other, beside, write):
    last, first = (JobBatch.objects.create(pk=UUID(int=number)) for number in (2, 1))
    for each in (last, first):
        make(batch_id=each.pk, state=State.FAILED)
    with transaction.atomic():
        lock("default", [first.pk])
        writing = beside(write)
        wait_until_blocked(other)
        other.execute("SELECT FROM pgonly_batch WHERE id = %s FOR NO KEY UPDATE NOWAIT", [last.pk])
    writing.result(10)


def test_one_process_sweeps_at_a_time(server, other, batch):
    with other.transaction():
        other.execute(f"SELECT pg_advisory_xact_lock({batches.ADVISORY_LOCK})")
        assert sweep(server) == ([], [], True)
    assert sweep(server).over == [str(batch.pk)]


def test_a_pruned_parent_takes_its_batches_along(server):
    parent = make(state=State.SUCCEEDED, delete_after=ago(HOUR))
    JobBatch.objects.create(parent=parent, name="papers", finished_at=ago(MINUTE))
    assert prune_jobs(server).deleted == 1
    assert not JobBatch.objects.exists()


def test_a_batch_leaves_a_day_after_its_end_when_its_members_have(server):
    _old, full, young = (
        JobBatch.objects.create(finished_at=ago(2 * MINUTE), delete_after=at)
        for at in (ago(MINUTE), ago(MINUTE), ago(-HOUR))
    )
    unfinished = JobBatch.objects.create()
    member = make(batch_id=full.pk, state=State.SUCCEEDED)
    assert prune(server) == 2, "one of them is put off, and the round continues after a full page"
    assert set(JobBatch.objects.all()) == {full, young, unfinished}
    member.delete()
    assert prune(server) == 0, "it is asked again a day later"
    JobBatch.objects.filter(pk=full.pk).update(delete_after=ago(MINUTE))
    assert prune(server) == 1
