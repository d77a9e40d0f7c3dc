"""A worker closes the batches of the jobs that it ends, and those that others have left."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import transaction

from pgonly_django import Batch, duties
from pgonly_django.database import notify
from pgonly_django.duties import Workplace
from pgonly_django.models import Job, JobBatch, State
from pgonly_django.queue import batches
from pgonly_django.queue import duties as duties_of_queue
from pgonly_django.tasks.duties import CloseBatches
from pgonly_django.worker.housekeeper import Housekeeper
from tests.jobs import add, batching
from tests.queue.rows import HOUR, ago, heard, make
from tests.waiting import wait_for
from tests.worker import rounds

pytestmark = pytest.mark.django_db(transaction=True)


def note(name):
    return batching.note.bind(name)


def is_finished(batch):
    return batch.row.finished_at is not None


@pytest.mark.parametrize("threads", [1, 4])
def test_a_burst_closes_its_batches_and_runs_their_callbacks(work, marks, threads):
    with Batch(on_success=note("first")) as first, Batch(on_failure=note("second")) as second:
        first.enqueue_many([batching.member.bind(1), batching.fail_once.bind("once")])
        second.enqueue_many([batching.fail.bind(1), batching.member.bind(2)])
    work(threads=threads)
    assert sorted(marks()) == ["first", "once", "second"]
    assert is_finished(first)


def test_a_burst_waits_for_a_batch_that_is_locked_and_runs_its_callback(work, marks, other):
    batch = Batch(on_finish=note("over"))
    batch.enqueue(batching.member, 1)
    other.execute("BEGIN")
    other.execute("SELECT FROM pgonly_batch WHERE id = %s FOR SHARE", [batch.id])
    unlocking = threading.Timer(1.0, other.execute, ["COMMIT"])
    unlocking.start()
    work()
    unlocking.join()
    assert marks() == ["over"]


def test_two_members_that_end_at_once_close_their_batch_once(background_worker, marks):
    background_worker(threads=2), background_worker(threads=2)
    with Batch(on_finish=note("over")) as batch:
        batch.enqueue_many([batching.member.bind(number, pause=0.3) for number in range(4)])
    wait_for(lambda: is_finished(batch))
    wait_for(lambda: Job.objects.waiting().count() + Job.objects.running().count() == 0)
    assert marks() == ["over"]
    assert batch.row.closes == 1


def test_a_batch_is_closed_soon_after_the_last_end(background_worker, marks):
    background_worker()
    late = []
    for _ in range(5):
        batch = Batch(on_finish=add.bind(1))
        batch.enqueue_many([batching.member.bind(number) for number in range(3)])
        wait_for(lambda batch=batch: is_finished(batch))
        ended = max(job.finished_at for job in batch.jobs)
        late.append((batch.row.finished_at - ended).total_seconds())
    assert sorted(late)[2] < 0.5


def test_members_add_members_to_a_batch_that_stays_open(work, marks):
    with Batch(on_success=note("over")) as batch:
        batch.enqueue(batching.split, 4)
    work()
    assert batch.jobs.count() == 31
    assert marks() == ["over"]


def test_a_thousand_members_are_looked_at_now_and_then(work, marks, monkeypatch):
    looks = []
    close = batches.close
    monkeypatch.setattr(batches, "close", lambda *args: looks.append(args) or close(*args))
    with Batch(on_success=note("over")) as batch:
        batch.enqueue_many([add.bind(number) for number in range(1000)])
    work()
    assert marks() == ["over"]
    assert [each.return_value for each in batch.results()] == list(range(1, 1001))
    assert len(looks) < 200


@pytest.mark.parametrize("burst", [True, False])
def test_what_a_worker_has_left_that_died_before_the_close_is_found(work, background_worker, marks, burst):
    batch = Batch(on_finish=note("over"))
    with batch:
        batch.enqueue(batching.member, 1)
    Job.objects.update(state=State.SUCCEEDED)
    if burst:
        work()
    else:
        background_worker()
    wait_for(lambda: marks() == ["over"])


def test_a_batch_without_members_is_closed_at_once(background_worker, marks):
    background_worker()
    began = time.monotonic()
    with Batch(on_success=note("empty")):
        pass
    wait_for(lambda: marks() == ["empty"])
    assert time.monotonic() - began < 4, "by its NOTIFY, not by the sweep"


def test_cancel_ends_a_batch_with_its_running_members(background_worker, marks):
    background_worker(threads=1)
    with Batch(on_failure=note("failed")) as batch:
        batch.enqueue_many([batching.stay.bind(number) for number in range(3)])
    wait_for(lambda: "0:started" in marks())
    assert batch.cancel() == 3
    wait_for(lambda: "failed" in marks())
    assert set(batch.jobs.values_list("state", flat=True)) == {State.CANCELLED}


@pytest.mark.parametrize("verb", ["discard", "cancel"])
def test_a_batch_whose_last_member_a_person_ends_is_closed_at_once(background_worker, monkeypatch, verb):
    """By its NOTIFY: no sweep finds it."""
    monkeypatch.setattr(batches, "sweep", lambda connection: batches.Swept([], [], some_open=True))
    with Batch() as batch:
        batch.enqueue(add.using(run_after=ago(-HOUR)), 1)
    background_worker()
    getattr(batch.jobs, verb)()
    wait_for(lambda: is_finished(batch))


def test_the_members_of_a_cancelled_parent_are_cancelled(background_worker):
    parent = make(queue="none")
    row = JobBatch.objects.create(parent=parent, name="papers")
    member = make(queue="none", batch_id=row.pk)
    background_worker(queues=("default",))
    Job.objects.filter(pk=parent.pk).cancel()
    wait_for(lambda: Job.objects.get(pk=member.pk).state == State.CANCELLED)
    wait_for(lambda: JobBatch.objects.get(pk=row.pk).finished_at is not None)


def test_a_batch_that_a_transaction_adds_to_is_closed_after_its_end(background_worker, marks):
    background_worker()
    batch = Batch(on_finish=note("over"))
    batch.enqueue(batching.member, 1, pause=0.5)
    with transaction.atomic():
        batch.enqueue(batching.member, 2)
        wait_for(lambda: not Job.objects.exclude(args=[2]).exclude(state=State.SUCCEEDED).exists())
        time.sleep(0.3)
        assert not is_finished(batch)
    wait_for(lambda: marks() == ["over"])
    assert {job.state for job in batch.jobs} == {State.SUCCEEDED}


class Closer:
    """A housekeeper with one duty."""

    def __init__(self, tell=lambda _: None):
        self.thread = Housekeeper(Workplace("default", tell=tell), [CloseBatches])
        (self.duty,) = self.thread.duties
        self.thread.start()

    def want(self, batch_id):
        self.thread.hear(notify.BATCH, batch_id)

    def end(self):
        self.thread.end()
        self.thread.join(10)


@pytest.fixture
def closer():
    closer = Closer()
    yield closer
    closer.end()


@pytest.fixture
def counted(monkeypatch):
    """Counts the calls of a function of queue/batches.py. `seconds`: it takes so long."""

    def count(name, seconds=0.0):
        calls, real = [], getattr(batches, name)

        def counting(*args):
            calls.append(args)
            time.sleep(seconds)
            return real(*args)

        monkeypatch.setattr(batches, name, counting)
        return calls

    return count


def want_for(seconds, closer, what):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        closer.want(what)
        time.sleep(0.01)


def open_batch():
    batch = JobBatch.objects.create()
    make(queue="none", batch_id=batch.pk)
    return str(batch.pk)


def test_a_batch_that_is_locked_is_looked_at_again_without_a_sweep(other, closer):
    with Batch() as batch:
        pass
    with other.transaction():
        other.execute("SELECT FROM pgonly_batch WHERE id = %s FOR SHARE", [batch.id])
        closer.want(batch.id)
        wait_for(lambda: closer.duty.has_more)
        assert not is_finished(batch)
    wait_for(lambda: is_finished(batch), 3)


def test_the_beats_of_a_worker_bring_no_sweep_forward(closer, counted):
    sweeps = counted("sweep")
    open_batch()
    want_for(1.0, closer, notify.ANY_BATCH)
    assert len(sweeps) == 1


def test_sweeps_become_rarer_while_no_batch_ends(closer, counted, monkeypatch):
    monkeypatch.setattr("pgonly_django.tasks.duties.SWEEP_DUTY", 0)
    closer.duty._sweep_pause = 0.05
    sweeps = counted("sweep")
    open_batch()
    want_for(1.5, closer, notify.ANY_BATCH)
    assert 2 <= len(sweeps) <= 6


def test_looks_that_take_long_leave_pauses(closer, counted):
    looks = counted("close", 0.2)
    want_for(1.5, closer, open_batch())
    assert len(looks) <= 5


def test_a_callback_that_cannot_be_enqueued_keeps_no_other_batch_open(background_worker, marks, caplog):
    with Batch(on_finish=note("broken")) as broken, Batch(on_finish=note("over")) as batch:
        pass
    JobBatch.objects.filter(pk=broken.id).update(callbacks={"on_finish": {"task": "of another version"}})
    background_worker()
    wait_for(lambda: marks() == ["over"])
    assert is_finished(batch)
    wait_for(lambda: f"Closing batch {broken.id} failed" in caplog.text)


def test_a_look_that_fails_is_made_again_by_the_sweep(monkeypatch, caplog):
    batch = Batch()
    with batch:
        pass
    told, calls, close = [], [], batches.close

    def failing(*args):
        calls.append(args)
        if len(calls) == 1:
            raise ZeroDivisionError
        return close(*args)

    monkeypatch.setattr(batches, "close", failing)
    monkeypatch.setattr("pgonly_django.tasks.duties.SWEEP_SECONDS", 0.2)
    closer = Closer(told.append)
    closer.want(batch.id)
    wait_for(lambda: is_finished(batch))
    closer.end()
    assert "Closing batches failed" in caplog.text


def test_the_other_workers_hear_of_a_callback(server):
    with Batch(on_success=add.bind(1)) as batch:
        pass
    server.execute(f"LISTEN {notify.CHANNEL}")
    told = []
    closer = Closer(told.append)
    closer.want(batch.id)
    wait_for(lambda: heard(server) == [notify.ready("default")])
    wait_for(lambda: len(told) == 2)
    assert told[0] == notify.ready("default")
    closer.end()


def test_spared_members_do_not_end_a_round_of_pruning(monkeypatch):
    for module in (duties_of_queue, duties):
        monkeypatch.setattr(module, "BATCH", 1)
    batch = JobBatch.objects.create()
    spared = make(batch_id=batch.pk, state=State.SUCCEEDED, delete_after=ago(2 * HOUR))
    make(state=State.SUCCEEDED, delete_after=ago(HOUR))
    rounds.run(duties_of_queue.PruneJobs)
    assert Job.objects.get() == spared
