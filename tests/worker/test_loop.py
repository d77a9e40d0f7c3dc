"""The main loop asks on a connection of ours alone. On one of Django's it would meet errors that it takes for the end
of the process, such as that of a server which has just gone away."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter, deque
from contextlib import ExitStack

import pytest
from django.db.backends.signals import connection_created
from django.db.models import F
from django.utils import timezone

from pgonly_django import enqueue_many
from pgonly_django.compat import InvalidTask, TaskResultStatus
from pgonly_django.models import Checkpoint, Job, State, Step
from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.queue.claim import Claim
from pgonly_django.worker import timers
from pgonly_django.worker.ending import EndedRun, succeeded, unrecordable
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.status import ExitCode, WorkerState
from tests import jobs
from tests.database.test_reconnecting import no_token
from tests.jobs import add, ending, transactions, waiting, watched
from tests.jobs.limited import enqueue_one, take_slots
from tests.queue.rows import HOUR, ago, make, make_running
from tests.waiting import wait_for
from tests.worker.conftest import MAIN_LOOP
from tests.worker.test_connection import cut


def test_a_job_runs_and_its_result_is_there(work):
    result = jobs.add.enqueue(2, b=3)
    work()
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.return_value == 5
    assert result.job.finished_at is not None
    assert result.job.delete_after - result.job.finished_at > timezone.timedelta(days=6)


def test_async_tasks_run_on_the_event_loop_and_sync_ones_in_slots(work):
    on_the_loop = [watched.thread_name.enqueue() for _ in range(20)]
    in_slots = [watched.thread_name_sync.enqueue() for _ in range(20)]
    work(threads=4)
    assert {result.wait(1).return_value for result in on_the_loop} == {"pgonly-loop"}
    assert {result.wait(1).return_value for result in in_slots} <= {f"pgonly-slot-{i}" for i in range(1, 5)}


def test_jobs_that_are_claimed_together_begin_in_the_order_of_their_priority(work, marks):
    priorities = [(number * 7) % 5 - 2 for number in range(120)]
    for priority in priorities:
        jobs.mark_once.using(priority=priority).enqueue(str(priority))
    work(threads=1)
    begun = [int(mark) for mark in marks()]
    first = begun[0]  # of a thread that has no measure yet
    assert begun == [first, *sorted(without(priorities, first), reverse=True)]


def without(priorities, one):
    left = list(priorities)
    left.remove(one)
    return left


def test_a_job_that_succeeds_at_last_has_its_earlier_errors(work):
    result = ending.fail_until.enqueue(3)
    work()
    result.refresh()
    assert result.return_value == 3
    assert len(result.errors) == 2
    assert len(result.worker_ids) == 3


@pytest.mark.parametrize("how", ["step", "checkpoint", "iterate"])
def test_a_job_that_commits_by_hand_is_refused_what_it_could_lose(worked, marks, how):
    job = worked(transactions.remember_without_autocommit, how).job
    assert job.state == State.FAILED
    assert job.errors[-1]["exception"] == "pgonly_django.exceptions.ManualCommitError"
    assert marks() == []
    assert not (Checkpoint.objects.exists() or Step.objects.exists())


def test_an_async_task_cannot_be_atomic():
    with pytest.raises(InvalidTask, match="add_async is async, so it cannot be atomic"):
        jobs.add_async.using(atomic=True)


def test_a_job_that_closed_its_connection_gets_none_back_from_the_context(work):
    result = transactions.let_go_of_the_database.enqueue()
    work()
    assert result.wait(1).return_value is True


def test_queues_are_served_in_the_order_given(work, marks):
    for queue in ("c", "b", "a"):
        jobs.mark_once.using(queue_name=queue).enqueue(queue)
    work(threads=1, queues=("b", "a"))
    assert marks() == ["b", "a"]


def test_max_jobs_ends_the_worker_after_so_many(work):
    for i in range(10):
        jobs.add.enqueue(i)
    worker = work(burst=False, max_jobs=4)
    assert worker.following.jobs_done == 4
    assert Job.objects.filter(state=State.READY).count() == 6


@pytest.mark.parametrize(
    ("flag", "ran", "left"), [("max_jobs", (3, 1), 1), ("max_jobs_per_process", (1, 0), 4)]
)
def test_max_jobs_does_not_count_runs_that_ended_by_waiting(work, flag, ran, left):
    for key in "abc":
        waiting.wait.enqueue(key)
    add.enqueue(1), add.enqueue(2)
    work(burst=False, threads=1, **{flag: 1})
    expected = Counter(scheduled=ran[0], succeeded=ran[1], ready=left)
    assert Counter(Job.objects.values_list("state", flat=True)) == expected


class Watched(deque):
    """Notes how long it has been."""

    longest = 0

    def append(self, item):
        super().append(item)
        self.longest = max(self.longest, len(self))


@pytest.fixture
def busy(background_worker, monkeypatch):
    """A worker on its way through many short jobs. On a slow machine, too, enough ends come together for two exchanges,
    and no job goes back because it did not begin within a second."""
    monkeypatch.setattr("pgonly_django.worker.loop.MANY", 20)
    monkeypatch.setattr("pgonly_django.worker.watchdog.UNSTARTED_SECONDS", 60.0)
    worker = background_worker()
    worker.exchanger.under_way = Watched()
    enqueue_many((jobs.add, (number,)) for number in range(4000))
    wait_for(lambda: worker.exchanger.under_way.longest == 2, what="two exchanges under way")
    return worker


def test_many_short_jobs_keep_two_exchanges_under_way_and_run_once_each(busy):
    wait_for(lambda: busy.following.jobs_done == 4000, 90)
    assert list(Job.objects.values_list("state", "attempt", "lease_epoch").distinct()) == [
        ("succeeded", 1, 1)
    ]
    wait_for(lambda: not busy.exchanger.under_way, what="the answer to its last look for jobs")


def test_a_stop_amid_many_short_jobs_leaves_none_behind(busy, work):
    busy.stop()
    assert busy.left.wait(10)
    left = Job.objects.exclude(state=State.SUCCEEDED)
    assert set(left.values_list("state", "attempt")) <= {("ready", 0)}
    assert busy.following.jobs_done + left.count() == 4000
    work()
    assert set(Job.objects.values_list("state", "attempt")) == {("succeeded", 1)}


@pytest.fixture
def claiming(transactional_db):
    """A worker that turns when the test says so, with a claim under way: `claiming(**options)`."""
    with ExitStack() as stack:

        def start(**options):
            worker = WorkerLoop(WorkerOptions(threads=1, **options))
            stack.callback(worker.slots.close, 0.0)
            for end in (worker.database.close_all, worker.heartbeat.end, worker.housekeeper.end):
                stack.callback(end)
            worker._start()
            worker._turn()
            worker.plan.look_from_head()
            assert worker.exchanger.send([], (), worker.plan.may_claim_now())
            return worker

        yield start


def test_what_a_claim_brings_after_a_stop_does_not_begin(claiming, marks):
    """Nobody would tell such a job of the stop: it would be interrupted, and lose an attempt."""
    worker = claiming()
    result = jobs.hold_on.using(max_attempts=1).enqueue("k")
    claim = Claim(1, {}, take_suspect=False)
    worker.exchanger.database.wait_for_answers()
    assert worker.exchanger.send([], (), claim)
    worker.stop()
    while not worker._is_done():
        worker._turn()
    assert marks() == []
    result.refresh()
    assert (result.job.state, result.job.attempt, result.job.errors) == (State.READY, 0, [])


def test_a_wake_up_that_comes_while_a_claim_is_under_way_counts(claiming):
    """The claim has not seen what has become ready since."""
    worker = claiming(burst=True, listen=False)
    make(state=State.SCHEDULED, run_at=timezone.now())
    worker.plan.promotion.wake()
    worker.plan.promotion.run()
    worker._exchange(time.monotonic())
    assert not worker._is_done()
    assert worker.plan.ordinary.next_at(1) <= time.monotonic()


@pytest.mark.sample(2)
@pytest.mark.parametrize("is_limited", [False, True])
@pytest.mark.parametrize("is_atomic", [False, True])
@pytest.mark.parametrize("listen", [False, True])
def test_a_burst_runs_what_its_last_job_has_enqueued(work, is_limited, is_atomic, listen):
    enqueue_one.using(atomic=is_atomic).enqueue(is_limited)
    assert work(listen=listen).following.jobs_done == 2
    assert set(Job.objects.values_list("state", flat=True)) == {State.SUCCEEDED}


@pytest.mark.slow
def test_max_idle_costs_nothing_while_a_job_runs_for_longer(work):
    take_slots.enqueue(1, 2.0)
    began = time.thread_time()
    assert work(burst=False, max_idle_seconds=0.1).following.jobs_done == 1
    assert time.thread_time() - began < 0.6, "the loop does not wait"


def test_max_idle_ends_an_idle_worker(work):
    assert work(burst=False, max_idle_seconds=0.1).code == ExitCode.STOPPED


def test_without_listen_jobs_are_found_by_polling(background_worker):
    worker = background_worker(listen=False, poll_seconds=0.1)
    result = jobs.add.enqueue(1)
    assert result.wait(20).return_value == 2
    assert not worker.database.listener.listens


def test_a_run_is_told_by_the_next_heartbeat_that_its_lease_is_gone(background_worker, marks, settings):
    settings.PGONLY = {"LEASE_SECONDS": 2}
    background_worker()
    result = watched.tell_when_stopped.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    Job.objects.filter(pk=result.id).update(lease_epoch=F("lease_epoch") + 1)
    wait_for(lambda: len(marks()) == 2, 10, "the job to leave")
    assert marks() == ["k:started", "k:told"]


def test_suspects_never_run_side_by_side_in_a_process(work, marks):
    for key in ("a", "b"):
        watched.mark_both_ends.enqueue(key, 0.3)
    Job.objects.update(crashes=SUSPECT_FROM)
    work(threads=2)
    first, second = marks()[0][0], marks()[2][0]
    assert marks() == [f"{first}:began", f"{first}:ended", f"{second}:began", f"{second}:ended"]
    assert {first, second} == {"a", "b"}
    assert set(Job.objects.values_list("state", "crashes")) == {(State.SUCCEEDED, 0)}


@pytest.fixture
def prefetched(background_worker, marks):
    """A stopped worker's jobs: one that runs until it is told to stop, and five that were claimed ahead."""
    worker = background_worker(threads=1, grace_seconds=10.0)
    worker.plan.note_run_seconds("default", 0.0001)
    jobs.hold_on.enqueue("long")
    wait_for(lambda: "long:started" in marks())
    results = [jobs.mark_once.enqueue(f"ahead {i}") for i in range(5)]
    ids = [result.id for result in results]
    wait_for(lambda: Job.objects.filter(pk__in=ids, state=State.RUNNING).count() == 5, what="the claims")
    worker.stop()
    assert worker.left.wait(10)
    return Job.objects.filter(pk__in=ids)


def test_claims_that_have_not_begun_go_back_at_a_stop_and_do_not_start_in_the_grace(prefetched, marks):
    assert marks() == ["long:started"]
    facts = prefetched.values_list("state", "attempt", "interruptions", "errors")
    assert list(facts) == [(State.READY, 0, 0, [])] * 5


def test_maintenance_runs_as_long_as_the_worker(background_worker):
    worker = background_worker()
    assert worker.housekeeper.is_alive()
    worker.stop()
    worker.housekeeper.join(10)
    assert not worker.housekeeper.is_alive()


def test_a_worker_that_breaks_down_renews_no_lease(transactional_db):
    worker = WorkerLoop(WorkerOptions(threads=1))
    worker.inbox.put(EndedRun(None, None))  # which its loop cannot make head nor tail of
    with pytest.raises(AttributeError):
        worker.run()
    worker.heartbeat.join(5)
    assert not worker.heartbeat.is_alive()
    worker.housekeeper.join(5)
    assert not worker.housekeeper.is_alive()


def test_of_two_ends_of_a_run_the_first_counts(background_worker, marks):
    """An exception that a job's own timeout raises in the slot's thread may come right after the delivery."""
    worker = background_worker(threads=1)
    result = jobs.sleep_in_slices.enqueue("k", 0.5)
    wait_for(lambda: "k:started" in marks())
    run = worker.in_flight.runs[result.id]
    worker.inbox.put(EndedRun(run, succeeded(run, "first")))
    worker.inbox.put(EndedRun(run, unrecordable(run, ValueError())))
    assert result.wait(10).return_value == "first"
    assert jobs.add.enqueue(1).wait(10).return_value == 2  # when the job itself has delivered its end
    wait_for(lambda: worker.following.jobs_done == 2)
    assert (worker.in_flight.ended, worker.in_flight.slots_taken) == ({}, 0)


@pytest.fixture
def opened():
    """For each connection of Django's that a main loop has opened: the functions that led to it."""
    found = []

    def note(**_):
        if threading.current_thread().name == MAIN_LOOP:
            found.append([frame.name for frame in traceback.extract_stack()])

    connection_created.connect(note)
    yield found
    connection_created.disconnect(note)


@pytest.mark.slow
def test_a_main_loop_opens_no_connection_of_django_once_it_has_declared_its_queues(
    settings, background_worker, opened
):
    settings.PGONLY = {
        "LEASE_SECONDS": 2,
        "QUEUES": {"few": {"max_running": 1}, "dead": {"task": "tests.jobs.burying.note"}},
    }
    worker = background_worker(threads=2)
    made = [
        jobs.add.enqueue(1, 2),
        jobs.count_to.enqueue(3),
        jobs.add_async.enqueue(1, 2),
        jobs.add.using(queue_name="few").enqueue(1, 2),
        ending.fail_until.enqueue(2),
        ending.give_up.enqueue(),
    ]
    due = make(state=State.SCHEDULED, run_at=ago(HOUR), task="tests.jobs.add", args=[1, 2])
    orphan = make_running(task="tests.jobs.add", args=[1, 2], lease_expires_at=ago(HOUR))
    asleep = jobs.sleep_in_slices.enqueue("cancelled")
    wait_for(lambda: Job.objects.get(pk=asleep.id).state == State.RUNNING)
    Job.objects.filter(pk=asleep.id).cancel()
    ids = [*[result.id for result in made], due.id, orphan.id, asleep.id]
    wait_for(lambda: not Job.objects.filter(pk__in=ids, finished_at=None).exists())
    worker.stop()
    assert worker.left.wait(10)
    assert opened
    assert [names for names in opened if "declare_queues" not in names] == []


@pytest.mark.slow
def test_a_backend_that_cannot_fetch_its_password_for_a_while_ends_no_worker(background_worker, marks):
    worker = background_worker(threads=2)
    result = jobs.sleep_in_slices.enqueue("a", 2.0)
    wait_for(marks)
    with no_token():
        cut()
        wait_for(lambda: worker.status().state is WorkerState.AWAY)
        some_tries = time.monotonic() + 1.0
        wait_for(lambda: time.monotonic() > some_tries)
        assert worker.status().state is WorkerState.AWAY
    assert result.wait(30).attempts == 1
    assert jobs.add.enqueue(1, 2).wait(30).return_value == 3


@pytest.fixture
def seldom(monkeypatch):
    """The first pause between two looks is an hour."""
    monkeypatch.setattr(timers, "BLIND_FIRST_PAUSE_SECONDS", 3600.0)


def test_a_worker_that_polls_runs_a_ready_and_a_due_job_once_it_is_woken(background_worker, seldom):
    worker = background_worker(listen=False, poll_seconds=3600.0)
    wait_for(lambda: worker.plan.ordinary.is_drained)
    due = make(state=State.SCHEDULED, run_at=ago(HOUR), task="tests.jobs.add", args=[1])
    ready = add.enqueue(2)
    worker.wake()
    wait_for(lambda: Job.objects.filter(pk__in=[due.pk, ready.id], state=State.SUCCEEDED).count() == 2)


def test_a_failing_job_is_retried_and_keeps_each_traceback(work):
    result = jobs.fail.enqueue("broken")
    work()
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert len(result.errors) == 3
    assert "ValueError: broken" in result.errors[0].traceback
    assert result.errors[0].exception_class is ValueError
    assert [entry["attempt"] for entry in result.job.errors] == [1, 2, 3]
    assert all(entry["finished_at"] >= entry["started_at"] for entry in result.job.errors)
