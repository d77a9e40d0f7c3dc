"""gather(): a job waits for jobs that it has enqueued, and gets their results."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from itertools import count

import pytest

from pgonly_django import send_event
from pgonly_django.context.memory import Memory
from pgonly_django.models import Event, Job, JobBatch, State, Wait
from pgonly_django.models.job import ClockTimestamp
from pgonly_django.queue.prune import prune
from pgonly_django.queue.rescue import rescue
from pgonly_django.testing.inline_worker import InlineWorker
from tests.jobs import batching, mark
from tests.queue.rows import HOUR, ago, fresh, make, make_running
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db


def members():
    return Job.objects.exclude(batch_id=None)


@pytest.mark.parametrize("task", [batching.gather_async, batching.gather_twice])
def test_the_results_come_in_the_order_of_the_calls(ran, task):
    job = ran(task, [3, 1, 2]).job
    assert (job.state, job.attempt, job.errors) == (State.SUCCEEDED, 1, [])
    assert job.steps.count() == (task is batching.gather_twice)
    assert job.result == ([3, 1, 2] if task is batching.gather_async else 42)
    assert {row.enqueued_by for row in members()} == {f"job:{job.pk}"}
    assert not Wait.objects.exists()


def test_results_are_read_in_pages(ran, monkeypatch):
    monkeypatch.setattr("pgonly_django.context.gathering.PAGE", 2)
    for number in (3, 4):
        assert ran(batching.gather_async, list(range(number))).job.result == list(range(number))


def test_it_waits_without_a_slot_until_the_last_one_has_ended(ran, run_jobs):
    result = batching.gather.enqueue([1, 2])
    run_jobs(max_jobs=2)
    job = result.job
    assert (job.state, job.attempt) == (State.SCHEDULED, 0)
    assert JobBatch.objects.get().parent_id == job.pk
    run_jobs()
    assert result.job.result == ["1", "2"]
    assert Event.objects.get().key == f"batch {JobBatch.objects.get().pk} 1"


def test_without_calls_it_is_over_at_once(ran):
    job = ran(batching.gather, []).job
    assert (job.result, job.lease_epoch) == ([], 1)
    assert JobBatch.objects.get().finished_at is not None


def test_a_job_that_gathers_hears_of_a_failed_one(run_jobs):
    result = batching.gather.using(max_attempts=1).enqueue([1, -1], other="fail")
    run_jobs()
    job = result.job
    assert job.state == State.FAILED
    assert job.errors[-1]["exception"] == "pgonly_django.exceptions.GatherError"
    assert "1 of its 2 jobs have not succeeded: tests.jobs.batching.fail" in job.errors[-1]["message"]
    assert "builtins.ValueError -1" in job.errors[-1]["message"]


def test_with_return_a_failed_one_stands_in_its_place(ran):
    job = ran(batching.gather, [1, -1, 2], failed="return", other="fail").job
    assert job.state == State.SUCCEEDED
    first, failed, last = job.result
    assert (first, last) == ("1", "2")
    assert failed.endswith("failed: builtins.ValueError -1")


def test_a_later_run_sees_what_a_retry_has_changed_and_waits_for_it(run_jobs):
    result = batching.gather.using(max_attempts=1).enqueue([1, -1], other="fail_unless_marked")
    run_jobs()
    assert result.job.state == State.FAILED
    mark("-1")
    assert members().failed().retry() == 1
    result.retry()
    run_jobs(max_jobs=1)
    run_jobs()
    assert result.job.result == ["1", "None"]
    assert JobBatch.objects.get().closes == 2
    assert members().count() == 2


@pytest.mark.parametrize("with_members", [True, False])
def test_a_job_that_is_retried_before_its_members_waits_for_them(run_jobs, with_members):
    result = batching.gather.using(max_attempts=1).enqueue([1, -1], other="fail_unless_marked")
    run_jobs()
    assert result.job.state == State.FAILED
    mark("-1")
    assert result.retry()
    if with_members:
        run_jobs(max_jobs=1)
        assert members().failed().retry() == 0, "it was retried with the first one"
    run_jobs()
    assert result.job.result == ["1", "None"]


def test_a_cancelled_job_that_is_retried_brings_all_back(run_jobs):
    result = batching.gather_gatherers.enqueue()
    run_jobs(max_jobs=3)
    assert result.cancel()
    run_jobs()
    assert not Job.objects.filter(state=State.READY).exists()
    assert result.retry()
    run_jobs()
    assert result.job.result == [1 + 11, 2 + 12]


def test_the_calls_are_enqueued_once_whatever_a_later_run_would_call(run_jobs):
    result = batching.gather.enqueue([1, 2])
    run_jobs(max_jobs=1)
    Job.objects.filter(pk=result.id).update(args=[[5, 6, 7]])
    run_jobs()
    assert result.job.result == ["1", "2"]


def test_a_gathered_job_may_gather(ran):
    assert ran(batching.gather_gatherers).job.result == [1 + 11, 2 + 12]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"failed": "ignore"}, 'failed must be "raise" or "return"'),
        ({"other": "unique"}, "unique is unique"),
    ],
)
def test_what_cannot_be_gathered_is_refused_and_nothing_is_written(ran, arguments, message):
    job = ran(batching.gather.using(max_attempts=1), [1, -1], **arguments).job
    assert message in job.errors[-1]["message"]
    assert not JobBatch.objects.exists()


def test_it_cannot_wait_in_a_transaction(ran):
    job = ran(batching.gather_in_transaction).job
    assert "it is in a transaction" in job.errors[-1]["message"]
    assert not JobBatch.objects.exists()


def test_a_deleted_job_is_not_left_out_of_the_results(run_jobs):
    result = batching.gather.using(max_attempts=1).enqueue([1, 2, 3])
    run_jobs(max_jobs=2)
    members().order_by("pk").first().delete()
    run_jobs()
    assert "1 of its jobs were deleted" in result.job.errors[-1]["message"]


def test_an_answer_that_somebody_else_has_sent_is_not_the_end(run_jobs):
    result = batching.gather.using(max_attempts=1).enqueue([1])
    run_jobs(max_jobs=1)
    send_event(f"batch {JobBatch.objects.get().pk} 1")
    Job.objects.filter(batch_id__isnull=False).hold()
    run_jobs()
    assert "it was not the end of its batch" in result.job.errors[-1]["message"]


def test_a_cancelled_one_takes_its_jobs_along(run_jobs):
    result = batching.gather.enqueue([1, 2])
    run_jobs(max_jobs=1)
    members().hold()
    assert Job.objects.filter(pk=result.id).cancel() == 1
    run_jobs()
    assert {job.state for job in members()} == {State.CANCELLED}
    assert JobBatch.objects.get().finished_at is not None


CANCELLED = {"state": State.CANCELLED}
ASKED = {"state": State.RUNNING, "cancel_requested_at": ago(HOUR)}
DISCARDED = {"state": State.FAILED, "errors": [{"outcome": "discarded"}]}
KEPT = {"state": State.FAILED, "errors": [{"outcome": "discarded", "members": "keep"}]}
FAILED = {"state": State.FAILED, "errors": [{"outcome": "discarded"}, {"outcome": "failed"}]}


@pytest.mark.parametrize(
    ("facts", "is_over"),
    [(CANCELLED, True), (ASKED, True), (DISCARDED, True), (KEPT, False), (FAILED, False)],
)
def test_a_sweep_cancels_all_levels_below_a_job_that_gathered_them_while_it_was_ended(
    run_jobs, facts, is_over
):
    top = make_running(**facts)
    middle = make(state=State.HELD, batch_id=JobBatch.objects.create(parent=top, name="x").pk)
    leaf = make(state=State.HELD, batch_id=JobBatch.objects.create(parent=middle, name="x").pk)
    run_jobs()
    assert {fresh(each).state for each in (middle, leaf)} == {State.CANCELLED if is_over else State.HELD}


class Killed(BaseException):
    """As the end of the process: no code of that run has an effect any more."""


class KillingWorker(InlineWorker):
    """Is dead from the place with this number on."""

    def __init__(self, kill_at):
        super().__init__("default", ())
        self.left, self.is_dead = kill_at, False
        self.executor.new_memory = partial(KillingMemory, self)

    def reach(self):
        self.left -= 1
        if self.left < 0 or self.is_dead:
            self.is_dead = True
            raise Killed

    def _write(self, ended):
        if self.is_dead:
            raise Killed
        self.reach()
        return super()._write(ended)


class KillingMemory(Memory):
    """Reaches a place before and after all that it reads and writes."""

    def __init__(self, worker, *args, **options):
        self.worker = worker
        super().__init__(*args, **options)

    def _fenced(self, statement, *values):
        self.worker.reach()
        answer = super()._fenced(statement, *values)
        self.worker.reach()
        return answer

    def read(self, alias, read):
        self.worker.reach()
        return super().read(alias, read)


def rescue_all(worker):
    Job.objects.running().update(lease_expires_at=ClockTimestamp() - timedelta(seconds=1))
    rescue(worker.database.connection(), timedelta(0), timedelta(0))


def test_a_job_that_is_killed_at_each_transition_ends_as_undisturbed(run_jobs):
    for kill_at in count():
        worker = KillingWorker(kill_at)
        worker.start()
        result = batching.gather_twice.enqueue([1, 2])
        try:
            while worker.run_next():
                pass
        except Killed:
            rescue_all(worker)
            run_jobs()
        job = result.job
        assert (job.state, job.result) == (State.SUCCEEDED, 1 + 2 + 11 + 12), kill_at
        batches = JobBatch.objects.filter(parent=job)
        assert {batch.closes for batch in batches} == {1}
        assert members().filter(batch_id__in=batches.values("pk")).count() == 4
        if not worker.is_dead:
            break
    assert kill_at > 25


def test_the_results_are_kept_while_the_job_that_gathers_is_unfinished(run_jobs):
    result = batching.gather.enqueue([1, 2])
    run_jobs(max_jobs=3)  # without the run that reads the results
    members().update(delete_after=ago(HOUR))
    assert prune(InlineWorker("default", ()).database.connection()).deleted == 0
    run_jobs()
    assert result.job.result == ["1", "2"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_with_fewer_threads_than_jobs_gathers_too(work, threads):
    results = [batching.gather.enqueue(list(range(5))), batching.gather_gatherers.enqueue()]
    work(threads=threads)
    assert [each.job.result for each in results] == [["0", "1", "2", "3", "4"], [12, 14]]


@pytest.mark.django_db(transaction=True)
def test_a_job_continues_soon_after_the_last_one_has_ended(background_worker):
    background_worker()
    result = batching.gather.enqueue([1, 2])
    wait_for(lambda: result.job.state == State.SUCCEEDED, seconds=10)
    job, last = result.job, max(each.finished_at for each in members())
    assert (job.finished_at - last).total_seconds() < 2
