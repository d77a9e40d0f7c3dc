"""One run, without a worker around it.

Projects whose transactions keep a snapshot: REPEATABLE READ or SERIALIZABLE, by OPTIONS or by the database."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from django.db import connection, connections
from psycopg import IsolationLevel

from pgonly_django import RESULT, enqueue_many
from pgonly_django.compat import TaskResultStatus, task_started
from pgonly_django.context.run import Run
from pgonly_django.context.transactions import retry_while_down
from pgonly_django.database.connect import connect
from pgonly_django.exceptions import AtomicStepError
from pgonly_django.models import Job, State, Step
from pgonly_django.outcomes import Outcome
from pgonly_django.queue import checkpoints
from pgonly_django.testing import drain
from pgonly_django.worker.running import Executor
from tests import activity, jobs
from tests.jobs import chained, ending, leaving, looping, transactions, watched
from tests.queue.rows import claim, claimer, fresh, make
from tests.waiting import beside, wait_for


def execute(run):
    """Its end, out of a thread as a worker has them."""
    ends = []
    executor = Executor("default", "id", ends.append)

    def execute_here():
        asyncio.run(executor.arun(run)) if executor.tasks.is_async(run.job) else executor.run(run)

    with beside(execute_here):
        pass
    (ended,) = ends
    return ended


@pytest.mark.parametrize("task", [leaving.swallow, leaving.swallow_async])
@pytest.mark.parametrize("wish", ["cancel_requested", "stop_requested"])
def test_a_job_that_has_to_end_before_its_start_is_not_called(run_of, marks, task, wish):
    run = run_of(task, "k")
    setattr(run, wish, True)
    expected = Outcome.CANCELLED if wish == "cancel_requested" else Outcome.RELEASED
    assert execute(run).finish.outcome is expected
    assert marks() == []


@pytest.mark.parametrize("task", [looping.fail_at_the_third, looping.fail_at_the_third_async])
def test_a_job_that_fails_goes_on_at_the_item_it_failed_in(ran, marks, task):
    assert ran(task, "k").job.attempt == 2
    assert marks() == ["k:0", "k:1", "k:2", "k:2", "k:3", "k:4"]


def test_an_async_job_that_exits_fails_alone(run_jobs):
    exits, others = ending.exit_async.enqueue(), [jobs.add_async.enqueue(i, 1) for i in range(5)]
    run_jobs()
    assert exits.job.state == State.SCHEDULED
    assert "SystemExit" in exits.job.errors[0]["exception"]
    assert [other.wait(1).return_value for other in others] == [1, 2, 3, 4, 5]


def test_a_receiver_of_task_started_may_use_the_orm_for_async_jobs_too(ran, receive):
    seen = []

    def receiver(sender, task_result, **_):
        seen.append(Job.objects.get(pk=task_result.id).state)

    receive(task_started, receiver)
    assert ran(jobs.add_async, 1, 1).job.state == State.SUCCEEDED
    assert seen == [State.RUNNING]


def test_an_atomic_job_keeps_its_progress_and_log_while_its_row_is_locked(work):
    result = watched.report_while_its_row_is_locked.enqueue()
    work()
    assert result.wait(1).status == TaskResultStatus.SUCCESSFUL
    assert result.progress == {"done": 5, "total": 5, "message": ""}
    assert [line["text"] for line in result.job.log] == ["hello"]


@pytest.mark.slow
def test_atomic_jobs_keep_their_progress_and_log_beside_others(work):
    """The worker reports for all that run whenever one ends: also for those that are about to write their own end."""
    enqueue_many([(watched.report_and_linger, (i % 40 / 4000,)) for i in range(300)])
    work(threads=4)
    rows = Job.objects.values_list("state", "progress__done", "log")
    assert {(state, done, *(line["text"] for line in log)) for state, done, log in rows} == {
        (State.SUCCEEDED, 5, "hello")
    }


def test_an_atomic_task_commits_with_its_finish(work, marks):
    good, bad = [transactions.mark_atomically.enqueue(key, fail=key == "bad") for key in ("good", "bad")]
    work()
    assert marks() == ["good"]
    assert good.job.state == State.SUCCEEDED
    assert bad.job.state == State.FAILED


def test_an_atomic_job_that_lost_its_lease_leaves_no_effect(worked, marks):
    assert worked(watched.mark_without_a_lease, "zombie").job.state == State.RUNNING
    assert marks() == []


@pytest.mark.parametrize("where", ["worker", "drain"])
@pytest.mark.parametrize("task", [transactions.step_atomically, transactions.step_atomically_async])
def test_a_step_of_an_atomic_job_is_refused_before_it_is_called(work, marks, task, where):
    """A kill would roll it back with the job, and the next run would pay again."""
    result = task.using(max_attempts=1).enqueue("k")
    work() if where == "worker" else drain(raise_errors=False)
    assert result.job.state == State.FAILED
    error = result.job.errors[-1]
    assert error["exception"] == f"{AtomicStepError.__module__}.AtomicStepError"
    assert "Leave out atomic=True" in error["message"]
    assert (marks(), Step.objects.count()) == ([], 0)


LEVELS = (IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE)


@pytest.fixture(params=[(level, place) for level in LEVELS for place in ("OPTIONS", "database")], ids=str)
def snapshots(request, transactional_db, settings):
    """New connections of Django's keep snapshots."""
    settings.PGONLY = {"LEASE_SECONDS": 2}
    level, place = request.param
    name = connection.settings_dict["NAME"]
    with connect("default", application_name="owner") as owner, pytest.MonkeyPatch.context() as patch:
        if place == "OPTIONS":
            ours = connections.settings["default"]
            patch.setitem(ours, "OPTIONS", {**ours["OPTIONS"], "isolation_level": level})
        else:
            wanted = level.name.replace("_", " ").lower()
            owner.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{wanted}'")
        yield
        owner.execute(f"ALTER DATABASE {name} RESET ALL")
    connections.close_all()


@pytest.mark.slow
@pytest.mark.usefixtures("snapshots")
def test_an_atomic_job_commits_though_its_leases_were_renewed(work, marks, caplog):
    result = transactions.mark_atomically_over_two_beats.enqueue("k")
    work()
    assert (result.job.state, result.job.errors) == (State.SUCCEEDED, [])
    assert result.job.progress == {"done": 1, "total": 2, "message": ""}
    assert [line["text"] for line in result.job.log] == ["after two beats"]
    assert marks() == ["k", "paid k", "paid k again"]
    assert "away" not in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("snapshots")
def test_jobs_with_steps_that_are_no_transaction_of_their_own_succeed_side_by_side(work, caplog):
    results = [jobs.slow_count.enqueue(5, 0.05, f"k{i}") for i in range(4)]
    work()
    assert [result.wait(1).return_value for result in results] == [5] * 4
    assert {result.job.attempt for result in results} == {1}
    assert "away" not in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("snapshots")
def test_jobs_that_others_follow_succeed_side_by_side(work, caplog):
    results = [chained.load.using(then=chained.keep_once.bind(n % 2, RESULT)).enqueue(n) for n in range(20)]
    work()
    assert {(result.job.state, result.job.attempt) for result in results} == {(State.SUCCEEDED, 1)}
    assert Job.objects.filter(task="tests.jobs.chained.keep_once", state=State.SUCCEEDED).count() >= 2
    assert "away" not in caplog.text


@pytest.mark.usefixtures("snapshots")
def test_a_checkpoint_whose_row_another_transaction_wrote_is_saved_again(transactional_db):
    make()
    with connect("default", application_name="other") as other:
        (job,) = claim(other, claimer())
        run = Run(job, "default", claimed_at=time.monotonic(), lease_until=time.monotonic() + 60)
        saving = threading.Thread(target=_save, args=[run])
        with other.transaction():
            other.execute("SELECT FROM pgonly_job FOR UPDATE")
            other.execute("UPDATE pgonly_job SET log = '[1]'")
            saving.start()
            with connect("default", application_name="looker") as looker:
                wait_for(lambda: len(activity.pids(WAITS, looker)) == 1, what="it to wait for the row")
    saving.join(10)
    assert fresh(job).checkpoint.value == 7


WAITS = "wait_event_type = 'Lock' AND query LIKE '%pgonly_checkpoint%'"


def _save(run):
    connection.ensure_connection()
    try:
        retry_while_down(run, checkpoints.save_checkpoint, run.job.id, run.job.lease_epoch, "7", "{}")
    finally:
        connections.close_all()
