"""What a worker survives: jobs, receivers and databases that misbehave between the lines."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from pgonly_django import enqueue_many
from pgonly_django.compat import TaskResultStatus, task_finished, task_started
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, State
from pgonly_django.models import Worker as WorkerRow
from pgonly_django.worker.connection_cleanup import noticing_dead_servers
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.worker import WorkerLoop
from tests import jobs
from tests.gate import GATE
from tests.jobs import ending, paying, transactions, watched
from tests.queue.rows import HOUR, ago, fresh, make_running, make_worker
from tests.waiting import wait_for


def test_a_backoff_that_moved_away_holds_up_its_own_job_only(work):
    moved = jobs.add.enqueue(1)
    Job.objects.filter(pk=moved.id).update(options={"backoff": "tests.jobs.no_such_backoff"})
    good = jobs.add.enqueue(1)
    work(threads=1)
    assert good.wait(1).return_value == 2
    assert moved.job.state == State.SCHEDULED
    assert "no_such_backoff" in moved.job.errors[0]["reason"]


def test_a_discard_with_an_exception_as_reason_says_its_words(work):
    result = ending.discard_with_an_exception.enqueue()
    work(threads=1)
    assert (result.job.state, result.job.errors[0]["reason"]) == (State.FAILED, "the cause")


def test_an_async_job_that_exits_fails_alone(work):
    exits, others = ending.exit_async.enqueue(), [jobs.add_async.enqueue(i, 1) for i in range(5)]
    work()
    assert exits.job.state == State.SCHEDULED
    assert "SystemExit" in exits.job.errors[0]["exception"]
    assert [other.wait(1).return_value for other in others] == [1, 2, 3, 4, 5]


def test_a_worker_that_claims_a_job_it_still_runs_ends_the_older_run(background_worker, marks):
    worker = background_worker(threads=2)
    result = jobs.sleep_in_slices.enqueue("k", 20.0)
    wait_for(lambda: "k:started" in marks())
    older = worker.in_flight.runs[result.id]
    # As if the process had been frozen past its lease, and somebody had rescued the job.
    Job.objects.filter(pk=result.id).update(state=State.READY, lease_expires_at=None)
    worker.inbox.put("ready default")
    wait_for(lambda: marks().count("k:started") == 2, what="the second run")
    assert older.lease_lost
    wait_for(lambda: marks().count("k:cleaned up") == 1, what="the older run to end")
    assert worker.in_flight.runs[result.id].job.lease_epoch == 2
    assert result.job.state == State.RUNNING
    result.cancel()
    assert result.wait(10).job.state == State.CANCELLED


def test_a_row_locked_elsewhere_does_not_make_a_burst_leave_ready_jobs_behind(work, marks):
    locked = jobs.mark_once.enqueue("locked")
    others = [jobs.add.enqueue(i) for i in range(20)]
    released = threading.Event()

    def hold_the_row():
        with connect("default", application_name="other") as other, other.transaction():
            wait_for(lambda: "locked" in marks())
            other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [locked.id])
            released.wait(3)
        connection.close()

    holder = threading.Thread(target=hold_the_row)
    holder.start()
    work(threads=1)
    released.set()
    holder.join()
    assert locked.job.state == State.SUCCEEDED
    assert {other.job.state for other in others} == {State.SUCCEEDED}


def test_a_time_that_is_past_already_starts_at_once(background_worker):
    background_worker()
    result = jobs.add.using(run_after=timezone.now() - timezone.timedelta(minutes=1)).enqueue(1)
    assert result.wait(5).return_value == 2


def test_a_due_time_announced_right_behind_another_is_kept(background_worker):
    background_worker()
    jobs.add.using(run_after=timezone.now() + timezone.timedelta(hours=1)).enqueue(1)
    soon = jobs.add.using(run_after=timezone.now() + timezone.timedelta(seconds=0.5)).enqueue(1)
    assert soon.wait(8).return_value == 2


def test_two_cancels_in_a_row_are_both_heard(background_worker, marks):
    background_worker()
    results = [jobs.sleep_in_slices.enqueue(key) for key in ("a", "b")]
    wait_for(lambda: {"a:started", "b:started"} <= set(marks()))
    for result in results:
        result.cancel()
    assert [result.wait(8).job.state for result in results] == [State.CANCELLED] * 2


def test_a_paid_step_survives_the_loss_of_its_connection(work, marks):
    result = paying.pay_and_lose_the_connection.enqueue("paid")
    work(threads=1)
    assert result.wait(1).return_value == 7
    assert (result.job.attempt, marks()) == (1, ["paid"])


def test_several_suspects_are_all_run_before_a_burst_ends(work):
    results = [jobs.add.enqueue(i) for i in range(3)]
    Job.objects.update(crashes=2)
    work()
    assert [result.wait(1).return_value for result in results] == [1, 2, 3]
    assert set(Job.objects.values_list("crashes", flat=True)) == {0}


def test_an_atomic_job_keeps_its_progress_and_log(work):
    result = transactions.report_atomically.enqueue()
    work()
    assert result.progress == {"done": 5, "total": 5, "message": ""}
    assert [line["text"] for line in result.job.log] == ["hello"]


def test_an_atomic_job_keeps_its_progress_and_log_while_its_row_is_locked(work):
    result = watched.report_while_its_row_is_locked.enqueue()
    work()
    assert result.wait(1).status == TaskResultStatus.SUCCESSFUL
    assert result.progress == {"done": 5, "total": 5, "message": ""}
    assert [line["text"] for line in result.job.log] == ["hello"]


def test_atomic_jobs_keep_their_progress_and_log_beside_others(work):
    """The worker reports for all that run whenever one ends: also for those that are about to write their own end."""
    enqueue_many([(watched.report_and_linger, (i % 40 / 4000,)) for i in range(600)])
    work(threads=4)
    rows = Job.objects.values_list("state", "progress__done", "log")
    assert {(state, done, *(line["text"] for line in log)) for state, done, log in rows} == {
        (State.SUCCEEDED, 5, "hello")
    }


def test_a_receiver_of_task_started_may_use_the_orm_for_async_jobs_too(work):
    seen = []

    def receiver(sender, task_result, **_):
        seen.append(Job.objects.get(pk=task_result.id).state)

    task_started.connect(receiver)
    try:
        result = jobs.add_async.enqueue(1, 1)
        work()
    finally:
        task_started.disconnect(receiver)
    assert seen == [State.RUNNING]
    assert result.wait(1).status == TaskResultStatus.SUCCESSFUL


@pytest.mark.parametrize("threads", [1, 2])
def test_a_cut_off_job_whose_thread_returns_gives_its_place_back(background_worker, marks, threads):
    worker = background_worker(threads=threads + 1, grace_seconds=0.0)
    result = jobs.stubborn.enqueue("deaf", 4.0)
    wait_for(lambda: "deaf:started" in marks())
    result.cancel()
    assert result.wait(10).job.state == State.CANCELLED
    assert jobs.add.enqueue(1).wait(10).return_value == 2
    wait_for(lambda: worker.slots.stuck == 0, what="the stuck thread to return")
    assert jobs.add.enqueue(2).wait(10).return_value == 3


def test_jobs_that_leave_transactions_open_use_up_no_place_of_djangos_pool(pooled, work):
    for _ in range(5):
        transactions.leave_transaction_open.enqueue("lost")
    good = jobs.mark_once.enqueue("kept")
    worker = work(threads=1)
    assert good.wait(1).status == TaskResultStatus.SUCCESSFUL
    assert worker.slots.stuck == 0


def test_a_stopped_job_that_knows_no_context_gets_an_exception_before_it_is_released(
    background_worker, marks
):
    worker = background_worker(grace_seconds=2.0)
    result = jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    worker.stop()
    wait_for(lambda: "k:cleaned up" in marks(), what="its finally")
    wait_for(lambda: result.job.state == State.READY)
    assert (result.job.attempt, result.job.interruptions) == (0, 1)


def test_log_lines_said_while_the_row_was_locked_are_kept(background_worker, marks):
    background_worker()
    result = jobs.log_slowly.enqueue(15)
    wait_for(lambda: "log:started" in marks())
    with connect("default", application_name="other") as other, other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [result.id])
        time.sleep(1.2)  # longer than it takes the worker to report twice
    result.wait(10)
    assert [line["text"] for line in result.job.log] == [str(i) for i in range(15)]


def test_a_job_that_was_cut_off_waits_for_its_own_backoff(background_worker, marks):
    background_worker(grace_seconds=0.0)
    result = ending.stubborn_with_a_backoff.enqueue("k")
    wait_for(lambda: result.job.state == State.SCHEDULED, seconds=15)
    assert result.job.run_at > timezone.now() + timezone.timedelta(minutes=5)


def test_each_failed_attempt_is_logged_with_its_traceback(work, caplog):
    jobs.fail.enqueue("broken")
    with caplog.at_level(logging.WARNING, "pgonly_django.worker"):
        work(threads=1)
    lines = [record for record in caplog.records if getattr(record, "event", "") == "worker.attempt_failed"]
    assert [record.levelname for record in lines] == ["WARNING", "WARNING", "ERROR"]
    assert re.search(
        r"attempt 1 of 3 failed with ValueError after [\d.e-]+ s; again in 0 s", lines[0].message
    )
    assert lines[2].message.endswith("it is not started again.")
    assert all("broken" in str(record.exc_info[1]) for record in lines)


def test_a_task_nobody_knows_is_logged(work, caplog):
    result = jobs.add.enqueue(1)
    Job.objects.filter(pk=result.id).update(task="tests.jobs.gone")
    with caplog.at_level(logging.WARNING, "pgonly_django.worker"):
        work(threads=1)
    assert "Cannot import the task tests.jobs.gone" in caplog.text
    assert "looked for again for 1:00:00" in caplog.text


def test_receivers_of_task_finished_find_the_exception_where_django_promises_it(work):
    seen = []

    def receiver(sender, task_result, **_):
        seen.append(sys.exc_info()[1])

    task_finished.connect(receiver)
    try:
        jobs.fail.using(max_attempts=1).enqueue("broken")
        jobs.add.enqueue(1)
        work(threads=1)
    finally:
        task_finished.disconnect(receiver)
    assert sorted(map(repr, seen)) == ["None", "ValueError('broken')"]


def test_a_module_that_exits_while_it_is_imported_is_a_task_nobody_knows(work):
    bad, good = jobs.add.enqueue(1), jobs.add.enqueue(1)
    Job.objects.filter(pk=bad.id).update(task="tests.exits_when_imported.gone")
    work(threads=1)
    assert good.wait(1).return_value == 2
    assert bad.job.state == State.SCHEDULED


def test_a_task_that_is_long_to_import_holds_up_no_cancel_and_no_other_job(background_worker, marks):
    background_worker(threads=3)
    running = jobs.hold_on.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    with transaction.atomic():
        late = [jobs.add.enqueue(1) for _ in range(2)]
        for result, name in zip(late, ("add_late", "add_late_async"), strict=True):
            Job.objects.filter(pk=result.id).update(task=f"tests.waits_when_imported.{name}")
    try:
        assert GATE.reached.wait(10)
        running.cancel()
        assert running.wait(10).job.state == State.CANCELLED
        assert jobs.add.enqueue(5).wait(10).return_value == 6
        assert {result.job.state for result in late} == {State.RUNNING}
    finally:
        GATE.opened.set()
    assert [result.wait(10).return_value for result in late] == [2, 2]


def test_a_worker_that_stops_before_its_first_heartbeat_is_seen_as_stopped(transactional_db):
    worker = WorkerLoop(WorkerOptions(burst=True))
    worker.heartbeat.end()  # so that its thread ends before it has connected
    worker.run()
    assert WorkerRow.objects.get(pk=worker.id).stopped_at is not None


def test_a_worker_that_breaks_down_renews_no_lease(transactional_db):
    worker = WorkerLoop(WorkerOptions(threads=1))
    worker.inbox.put(object())  # which its loop cannot make head nor tail of
    with pytest.raises(AttributeError):
        worker.run()
    worker.heartbeat.join(5)
    assert not worker.heartbeat.is_alive()
    worker.maintenance.join(5)
    assert not worker.maintenance.is_alive()


def test_a_worker_back_from_a_long_silence_calls_nobody_dead_at_once(transactional_db, settings):
    settings.PGONLY = {"LEASE_SECONDS": 2}  # the server itself has to have been up for half of it
    silent = make_worker(silent_for=HOUR)
    job = make_running(silent.id, lease_expires_at=ago(HOUR))
    heartbeat = WorkerLoop(WorkerOptions()).heartbeat
    with connect("default", application_name="pgonly tests") as server:
        _beat_through_a_gap(heartbeat, server, job, silent)


def _beat_through_a_gap(heartbeat, server, job, silent):
    lease_seconds = heartbeat.options.lease_for.total_seconds()
    heartbeat.beat(server)  # the first one registers the worker
    heartbeat.beat(server)
    assert fresh(job).state == State.READY
    Job.objects.filter(pk=job.pk).update(state=State.RUNNING, worker_id=silent.id, lease_expires_at=ago(HOUR))
    heartbeat.rescue._contact_at -= lease_seconds
    heartbeat.beat(server)
    assert fresh(job).state == State.RUNNING
    heartbeat.rescue._settled_at -= lease_seconds
    heartbeat.beat(server)
    assert fresh(job).state == State.READY


def test_django_s_connections_of_a_worker_notice_a_dead_server(transactional_db, monkeypatch):
    before = {**connection.settings_dict["OPTIONS"], "keepalives_count": 7}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", before)
    found = []

    def connect_anew():
        connection.ensure_connection()
        found.append(connection.connection.info.get_parameters())
        connection.close()

    with noticing_dead_servers():
        thread = threading.Thread(target=connect_anew)
        thread.start()
        thread.join()
    assert found[0]["tcp_user_timeout"] == "30000"
    assert found[0]["keepalives_count"] == "7"
    assert connections.settings["default"]["OPTIONS"] is before


def test_a_connection_lost_below_asyncio_run_harms_no_later_job(work, marks):
    lost, later = transactions.query_below_asyncio_run.enqueue("lost", cuts=True), []
    work(threads=1)
    later = [transactions.query_below_asyncio_run.enqueue(str(i)) for i in range(3)]
    work(threads=1)
    assert {result.job.state for result in (lost, *later)} == {State.SUCCEEDED}
    assert marks() == ["lost", "0", "1", "2"]


def test_what_a_sync_job_did_below_asyncio_run_leaves_no_connection(work, marks):
    count = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND backend_type = 'client backend'"
    )
    before = connection.cursor().execute(count).fetchone()
    transactions.query_below_asyncio_run.enqueue("k")
    work(threads=1)
    assert marks() == ["k"]
    wait_for(lambda: connection.cursor().execute(count).fetchone() <= before, what="its end")


@pytest.mark.parametrize("task", [jobs.add, jobs.add_async])
def test_arguments_that_do_not_fit_here_wait_for_a_worker_that_takes_them(work, task):
    """Amid a deploy: they were enqueued for a signature that this worker does not have yet."""
    result = task.enqueue(1, 1)
    Job.objects.filter(pk=result.id).update(kwargs={"currency": "EUR"})
    good = jobs.add.enqueue(1)
    work(threads=1)
    job = result.job
    assert (job.state, job.attempt, job.errors[0]["outcome"]) == (State.SCHEDULED, 0, "postponed")
    assert (
        "cannot be called with these arguments: got an unexpected keyword argument" in job.errors[0]["reason"]
    )
    assert good.wait(1).return_value == 2


def test_arguments_that_have_not_fitted_for_an_hour_fail_the_job(work):
    result = jobs.add.enqueue(1)
    since = (timezone.now() - timezone.timedelta(hours=1, minutes=1)).isoformat()
    entry = {"outcome": "postponed", "since": since, "reason": "does not fit"}
    Job.objects.filter(pk=result.id).update(args=[1, 2, 3], errors=[entry])
    work(threads=1)
    assert result.job.state == State.FAILED
    assert "No worker could call it with its arguments for 1:00:00" in result.job.errors[-1]["reason"]


def test_a_type_error_inside_a_job_is_an_error_of_its_own(work):
    result = jobs.add.using(max_attempts=1).enqueue(1, "b")
    work(threads=1)
    assert (result.job.state, result.job.attempt) == (State.FAILED, 1)


def test_a_traceback_begins_in_the_job(work):
    results = [
        jobs.fail.using(max_attempts=1).enqueue("broken"),
        ending.exit_async.using(max_attempts=1).enqueue(),
    ]
    work()
    for result in results:
        first_frame = result.job.errors[-1]["traceback"].splitlines()[1]
        assert "tests/jobs/" in first_frame
