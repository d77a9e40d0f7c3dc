from __future__ import annotations

import logging

import pytest
from django.utils import timezone

from pgonly_django.compat import InvalidTask, TaskResultStatus, task_enqueued, task_finished, task_started
from pgonly_django.models import Checkpoint, Job, State, Step, Worker
from pgonly_django.tasks import PostgresBackend
from pgonly_django.worker.worker import ExitCode
from tests import jobs
from tests.jobs import ending, transactions, unstorable, watched
from tests.waiting import wait_for


def test_a_job_runs_and_its_result_is_there(work):
    result = jobs.add.enqueue(2, b=3)
    work()
    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.return_value == 5
    assert result.job.finished_at is not None
    assert result.job.expires_at - result.job.finished_at > timezone.timedelta(days=6)


def test_async_tasks_run_on_the_event_loop_and_sync_ones_in_slots(work):
    on_the_loop = [watched.thread_name.enqueue() for _ in range(20)]
    in_slots = [watched.thread_name_sync.enqueue() for _ in range(20)]
    work(threads=4)
    assert {result.wait(1).return_value for result in on_the_loop} == {"pgonly-loop"}
    assert {result.wait(1).return_value for result in in_slots} <= {f"pgonly-slot-{i}" for i in range(1, 5)}


def test_an_async_task_has_the_whole_context(work):
    result = jobs.count_async.enqueue(5)
    work()
    assert result.wait(1).return_value == 30
    assert result.job.checkpoint.value == {"total": 30}
    assert result.job.steps.count() == 5


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


def test_a_job_that_succeeds_at_last_has_its_earlier_errors(work):
    result = ending.fail_until.enqueue(3)
    work()
    result.refresh()
    assert result.return_value == 3
    assert len(result.errors) == 2
    assert len(result.worker_ids) == 3


def test_backoff_schedules_the_retry(work):
    result = jobs.fail.using(
        backoff=jobs.Backoff(base=timezone.timedelta(hours=1), cap=timezone.timedelta(hours=1))
    )
    result = result.enqueue()
    work()
    job = result.job
    assert job.state == State.SCHEDULED
    assert job.attempt == 1
    result.refresh()
    assert result.status == TaskResultStatus.READY


def test_a_snoozed_job_runs_again_without_using_an_attempt(marks, background_worker):
    background_worker()
    result = ending.snooze_once.enqueue("k")
    assert result.wait(20).return_value == "awake"
    assert result.job.attempt == 1
    assert marks() == ["k", "k"]


def test_retry_uses_the_attempt_and_its_own_delay(work):
    result = ending.ask_for_retry.enqueue()
    work()
    assert result.job.state == State.FAILED
    assert [entry["outcome"] for entry in result.job.errors] == ["retried", "retried"]


def test_discard_fails_at_once_with_the_reason(work):
    result = ending.give_up.enqueue()
    work()
    job = result.job
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.errors[0]["reason"] == "pointless"


@pytest.mark.parametrize("task", [unstorable.return_nul, unstorable.return_nan])
def test_a_result_that_json_cannot_hold_fails_only_its_own_job(work, task):
    bad = task.enqueue()
    good = [jobs.add.enqueue(i) for i in range(10)]
    work()
    assert bad.job.state == State.FAILED
    assert "The return value of" in bad.job.errors[0]["message"]
    assert bad.job.attempt == 1
    assert [result.wait(1).return_value for result in good] == [i + 1 for i in range(10)]


def test_an_exception_with_unstorable_text_is_stored_readably(work):
    result = unstorable.raise_nul.enqueue()
    work()
    assert result.job.errors[0]["message"] == "bad \\x00 text \\ud800"


def test_an_atomic_task_commits_with_its_finish(work, marks):
    good, bad = (
        transactions.mark_atomically.enqueue("good"),
        transactions.mark_atomically.enqueue("bad", fail=True),
    )
    work()
    assert marks() == ["good"]
    assert good.job.state == State.SUCCEEDED
    assert bad.job.state == State.FAILED


def test_an_atomic_job_that_lost_its_lease_leaves_no_effect(work, marks):
    result = watched.mark_without_a_lease.enqueue("zombie")
    work()
    assert marks() == []
    assert result.job.state == State.RUNNING


def test_a_transaction_left_open_is_rolled_back_and_warned_about(work, marks, caplog):
    with caplog.at_level(logging.WARNING, "pgonly_django"):
        transactions.leave_transaction_open.enqueue("lost")
        jobs.mark_once.enqueue("kept")
        work(threads=1)
    assert marks() == ["kept"]
    assert "tests.jobs.transactions.leave_transaction_open left a transaction open" in caplog.text


def test_a_job_whose_rows_were_lost_with_its_transaction_has_not_succeeded(work, marks):
    read = transactions.read_in_an_open_transaction.enqueue()
    lost = transactions.leave_transaction_open.using(max_attempts=1).enqueue("lost")
    alone = transactions.leave_transaction_open_async.using(max_attempts=1).enqueue("lost")
    work(threads=1)
    assert marks() == []
    for result in (lost, alone):
        assert (result.job.state, result.job.attempt) == (State.FAILED, 1)
        assert "its transaction on 'default' open" in result.job.errors[-1]["message"]
    assert read.job.state == State.SUCCEEDED


@pytest.mark.parametrize("how", ["step", "checkpoint", "iterate"])
def test_a_job_that_commits_by_hand_is_refused_what_it_could_lose(work, marks, how):
    result = transactions.remember_without_autocommit.enqueue(how)
    work(threads=1)
    assert result.job.state == State.FAILED
    assert result.job.errors[-1]["exception"] == "pgonly_django.exceptions.ManualCommitError"
    assert marks() == []
    assert not (Checkpoint.objects.exists() or Step.objects.exists())


def test_a_broken_connection_is_closed_and_warned_about(work, marks, caplog):
    with caplog.at_level(logging.WARNING, "pgonly_django"):
        transactions.break_connection.enqueue()
        result = jobs.mark_once.enqueue("after")
        work(threads=1)
    assert "tests.jobs.transactions.break_connection left a broken connection" in caplog.text
    assert result.wait(1).is_finished
    assert marks() == ["after"]


def test_a_job_that_runs_too_long_is_ended(background_worker):
    background_worker()
    result = ending.run_too_long.enqueue()
    result.wait(20)
    entry = result.job.errors[-1]
    assert (result.job.state, entry["outcome"]) == (State.FAILED, "timed out")


def test_progress_and_log_lines_are_visible_while_the_job_runs(background_worker):
    background_worker()
    result = jobs.report_progress.enqueue(pause=5.0)
    progress = wait_for(lambda: result.progress, what="progress")
    assert progress == {"done": 3, "total": 10, "message": "three"}
    assert result.job.state == State.RUNNING
    assert [line["text"] for line in result.job.log] == ["a line"]


def test_an_unknown_task_waits_without_burning_an_attempt(work):
    result = jobs.add.enqueue(1)
    Job.objects.filter(pk=result.id).update(task="tests.jobs.not_deployed_yet")
    work()
    job = Job.objects.get(pk=result.id)
    assert (job.state, job.attempt, job.interruptions) == (State.SCHEDULED, 0, 0)
    assert "not_deployed_yet" in job.errors[0]["reason"]


def test_a_task_unknown_for_an_hour_fails_with_the_reason(work):
    result = jobs.add.enqueue(1)
    since = (timezone.now() - timezone.timedelta(hours=1, minutes=1)).isoformat()
    entry = {"outcome": "postponed", "since": since, "reason": "unknown"}
    Job.objects.filter(pk=result.id).update(task="tests.jobs.gone", errors=[entry])
    work()
    job = Job.objects.get(pk=result.id)
    assert job.state == State.FAILED
    assert len(job.errors) == 1 or job.errors[-1]["outcome"] == "failed"
    assert "No worker knew the task for 1:00:00" in job.errors[-1]["reason"]


def test_the_signals_come_with_the_backend_as_sender_and_the_right_status(work):
    seen = []

    def listen(name):
        def receiver(sender, task_result, **_):
            seen.append((name, sender, task_result.status, task_result.id))

        return receiver

    receivers = {signal: listen(name) for signal, name in
                 ((task_enqueued, "enqueued"), (task_started, "started"), (task_finished, "finished"))}  # fmt: skip
    for signal, receiver in receivers.items():
        signal.connect(receiver)
    try:
        result = jobs.add.enqueue(1)
        work()
    finally:
        for signal, receiver in receivers.items():
            signal.disconnect(receiver)
    assert seen == [
        ("enqueued", PostgresBackend, TaskResultStatus.READY, result.id),
        ("started", PostgresBackend, TaskResultStatus.RUNNING, result.id),
        ("finished", PostgresBackend, TaskResultStatus.SUCCESSFUL, result.id),
    ]


def test_a_failed_job_is_announced_once_with_its_errors(work):
    seen = []

    def receiver(sender, task_result, **_):
        seen.append((task_result.status, [error.exception_class for error in task_result.errors]))

    task_finished.connect(receiver)
    try:
        jobs.fail.enqueue()
        work()
    finally:
        task_finished.disconnect(receiver)
    assert seen == [(TaskResultStatus.FAILED, [ValueError] * 3)]


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
    assert worker.jobs_done == 4
    assert Job.objects.filter(state=State.READY).count() == 6


def test_max_idle_ends_an_idle_worker(work):
    assert work(burst=False, max_idle_seconds=0.1).code == ExitCode.STOPPED


def test_a_stopped_worker_says_so_in_its_row(work):
    worker = work(name="shelf")
    row = Worker.objects.get(pk=worker.id)
    assert row.name == "shelf"
    assert row.stopped_at is not None


def test_a_scheduled_job_starts_when_it_is_due(background_worker):
    background_worker()
    result = jobs.add.using(run_after=timezone.now() + timezone.timedelta(seconds=0.5)).enqueue(1)
    assert result.job.state == State.SCHEDULED
    result.wait(20)
    late = result.job.started_at - result.job.run_at
    assert timezone.timedelta(0) <= late


def test_without_listen_jobs_are_found_by_polling(background_worker):
    worker = background_worker(listen=False, poll_seconds=0.1)
    result = jobs.add.enqueue(1)
    assert result.wait(20).return_value == 2
    assert not worker.database.listener.listens


def test_unstarted_claims_go_back_while_a_long_job_holds_the_slot(background_worker, marks):
    worker = background_worker(threads=1)
    worker.prefetch.note("default", 0.0001)  # jobs here are known to be short, so the worker claims ahead
    long_one = jobs.hold_on.enqueue("long", 30)
    wait_for(lambda: "long:started" in marks())
    waiting = [jobs.add.enqueue(i) for i in range(5)]
    wait_for(
        lambda: (
            Job.objects.filter(pk__in=[r.id for r in waiting], state=State.READY, lease_epoch__gt=0).count()
            == 5
        )
    )
    assert set(
        Job.objects.filter(pk__in=[r.id for r in waiting]).values_list("attempt", "interruptions")
    ) == {(0, 0)}
    long_one.cancel()


def test_ten_thousand_rows_in_mixed_queues_each_run_once(work, marks):
    from pgonly_django import enqueue_many

    enqueue_many(
        [(jobs.mark_once.using(queue_name=f"q{i % 7}", priority=i % 3), (str(i),)) for i in range(1000)]
    )
    work(threads=8)
    assert sorted(marks(), key=int) == [str(i) for i in range(1000)]
