from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.translation import get_language, override

from pgonly_django.compat import TaskResultStatus, task_finished, task_started
from pgonly_django.current_job import current_job
from pgonly_django.exceptions import TransactionLeftOpenError, UnreadableJobError, WrongArgumentsError
from pgonly_django.models import Job, Step
from pgonly_django.queue.claim import candidates_sql, claim_statement
from pgonly_django.tasks.registry import UnknownTaskError
from pgonly_django.testing import adrain, drain
from pgonly_django.testing.django_connection import DrainError
from tests.aliases import alias
from tests.jobs import add, add_async, burying, count_async, count_to, drained, fail, policies, telling
from tests.jobs.transactions import leave_transaction_open, mark_atomically, read_in_an_open_transaction
from tests.queue.rows import make
from tests.testing.conftest import both


def states():
    return list(Job.objects.order_by("pk").values_list("state", flat=True))


@both
def test_it_runs_what_is_ready_and_returns_the_results(where):
    add.enqueue(1, 2)
    add_async.enqueue(3, 4)
    count_to.enqueue(3)
    count_async.enqueue(3)
    results = drain()
    assert [result.return_value for result in results] == [3, 7, 5, 5]
    assert {result.status for result in results} == {TaskResultStatus.SUCCESSFUL}
    assert states() == ["succeeded"] * 4
    assert drain() == []


@both
def test_the_first_drain_of_a_process_compiles_the_claim(where):
    candidates_sql.cache_clear()
    claim_statement.cache_clear()
    add.enqueue(1)
    assert len(drain()) == 1


@both
def test_jobs_that_a_job_enqueues_run_too(where):
    drained.enqueue_a_chain.enqueue(3)
    assert [result.args for result in drain()] == [[3], [2], [1], [0]]


@both
def test_a_job_that_fails_raises_its_error_once_its_row_is_written(where, written):
    drained.mark_and_fail.enqueue("one")
    add.enqueue(1)
    with pytest.raises(ValueError, match="after one") as caught:
        drain()
    assert "attempt 1 of 3. Its row is scheduled." in caught.value.__notes__[0]
    assert written() == ["one"]
    assert states() == ["scheduled", "ready"]
    assert Job.objects.first().errors[0]["exception"] == "builtins.ValueError"


@both
def test_without_raise_errors_the_drain_goes_on(where):
    drained.mark_and_fail.enqueue("one")
    add.enqueue(1)
    failed, added = drain(raise_errors=False)
    assert (failed.status, failed.attempts) == (TaskResultStatus.READY, 1)
    assert failed.errors[0].exception_class_path == "builtins.ValueError"
    assert added.return_value == 2


@both
def test_retries_run_once_they_are_due(where):
    fail.enqueue()  # without a pause between its attempts
    drained.mark_and_fail.enqueue("one")
    drain(raise_errors=False)
    assert states() == ["failed", "scheduled"]
    assert list(Job.objects.order_by("pk").values_list("attempt", flat=True)) == [3, 1]


@both
@pytest.mark.parametrize(
    ("how", "state"),
    [("snooze", "scheduled"), ("retry", "scheduled"), ("hold", "held"), ("discard", "failed")],
)
def test_what_a_job_asks_for_itself_raises_nothing(where, how, state):
    drained.end_by.enqueue(how)
    drain()
    assert states() == [state]


@both
def test_an_exit_fails_its_job_and_does_not_end_the_test_run(where):
    drained.end_by.using(max_attempts=1).enqueue("exit")
    with pytest.raises(DrainError, match="SystemExit") as caught:
        drain()
    assert isinstance(caught.value.__cause__, SystemExit)
    assert states() == ["failed"]


@both
def test_what_is_meant_for_the_test_run_ends_the_drain(where):
    drained.end_by.enqueue("interrupt")
    with pytest.raises(KeyboardInterrupt):
        drain(raise_errors=False)
    drained.end_by.enqueue("skip")
    with pytest.raises(pytest.skip.Exception):
        drain(raise_errors=False)


@both
def test_a_policy_of_the_task_is_obeyed(where):
    policies.judged.enqueue("rate")
    policies.judged.enqueue("money")
    drain()
    assert states() == ["scheduled", "held"]
    policies.judged.enqueue("value")
    with pytest.raises(ValueError, match="value"):
        drain()


def test_a_task_that_does_not_exist_raises(db):
    make(task="tests.jobs.was_renamed")
    with pytest.raises(UnknownTaskError, match="was_renamed"):
        drain()


def test_max_runtime_interrupts_the_job(db):
    drained.run_too_long.enqueue()
    with pytest.raises(DrainError, match="JobTimedOut"):
        drain()
    assert Job.objects.get().errors[0]["outcome"] == "timed out"


@both
def test_only_what_may_start_now_runs(where):
    add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1)
    add.enqueue(2)
    Job.objects.filter(args=[2]).hold()
    add.enqueue(3)
    Job.objects.filter(args=[3]).cancel()
    assert drain() == []
    assert states() == ["scheduled", "held", "cancelled"]


@both
def test_due_jobs_run(where):
    make(args=[1], state="scheduled", run_at=timezone.now() - timedelta(hours=1))
    assert [result.return_value for result in drain()] == [2]


@both
def test_queues_are_served_in_their_order(where):
    for queue in ("one", "two", "three"):
        add.using(queue_name=queue).enqueue(1)
    assert [result.task.queue_name for result in drain(["two", "one"])] == ["two", "one"]
    assert [result.task.queue_name for result in drain("three")] == ["three"]


@both
def test_it_stops_after_max_jobs_and_when_until_is_true(where):
    for number in range(6):
        add.enqueue(number)
    assert len(drain(max_jobs=2)) == 2
    assert len(drain(until=lambda: Job.objects.finished().count() == 5)) == 3
    assert len(drain()) == 1


def test_a_job_that_never_ends_ends_the_drain(db):
    drained.end_by.enqueue("again")
    with pytest.raises(DrainError, match="has run 100 times, and there is still work: give drain"):
        drain()


@pytest.mark.parametrize("wrong", [{"max_jobs": 0}, {"max_jobs": "1"}, {"queue": "defualt"}, {"queue": 7}])
def test_wrong_arguments_are_refused(db, settings, wrong):
    settings.TASKS = {"default": {**settings.TASKS["default"], "QUEUES": ["default", "mail"]}}
    with pytest.raises(WrongArgumentsError) as caught:
        drain(**wrong)
    if wrong.get("queue") == "defualt":
        assert "did you mean 'default'?" in str(caught.value)


# Transactions.


@both
def test_what_a_job_wrote_before_it_failed_stays(where, written):
    drained.mark_and_fail.enqueue("one")
    drain(raise_errors=False)
    assert written() == ["one"]


@both
def test_an_atomic_job_that_fails_leaves_nothing(where, written):
    mark_atomically.enqueue("one")
    mark_atomically.enqueue("two", fail=True)
    drain(raise_errors=False)
    assert written() == ["one"]
    assert states() == ["succeeded", "failed"]


@both
def test_a_statement_that_fails_leaves_the_transaction_usable(where, written):
    drained.fail_in_the_database.enqueue("one")
    drained.fail_inside_atomic.enqueue("two")
    drained.swallow_inside_atomic.enqueue("three")
    drain()
    assert written() == ["one:caught", "two:before", "two:after"]


@both
def test_functions_on_commit_run_when_a_worker_would_run_them(where, written):
    drained.tell_after_commit.enqueue("one")
    drained.tell_after_rollback.enqueue("two")
    drain()
    assert written() == ["one:at once", "one:inside", "one:after", "one:end"]
    assert Job.objects.filter(task="tests.jobs.add").get().state == "succeeded"


@both
def test_a_job_sees_no_transaction(where):
    drained.say_where_it_runs.enqueue()
    (result,) = drain()
    assert result.return_value == [False, True, True]
    drained.lock_outside_of_atomic.enqueue()
    with pytest.raises(TransactionManagementError, match="cannot be used outside of a transaction"):
        drain()


@both
def test_a_job_may_commit_by_hand_and_close_its_connections(where, written):
    drained.commit_by_hand.enqueue("one")
    drained.close_its_connections.enqueue("two")
    drain()
    assert written() == ["one:one", "one:three", "two"]


@both
def test_a_transaction_that_a_job_leaves_open_is_rolled_back_and_fails_it(where, written):
    leave_transaction_open.using(max_attempts=1).enqueue("lost")
    with pytest.raises(TransactionLeftOpenError):
        drain()
    assert written() == []
    assert not connection.in_atomic_block or where == "in a TestCase"
    assert states() == ["failed"]
    add.enqueue(1)
    assert len(drain()) == 1


def test_one_that_it_only_reads_in_does_not_fail_it(db):
    read_in_an_open_transaction.enqueue()
    drain()
    assert states() == ["succeeded"]


def test_a_job_that_breaks_the_transaction_is_rolled_back_as_a_whole(db, written):
    drained.break_the_transaction.enqueue()
    with pytest.raises(TransactionLeftOpenError):
        drain()
    assert written() == []
    assert states() == ["failed"]


@both
def test_async_jobs_use_the_test_s_connection(where, written):
    drained.mark_async.enqueue("one")
    drained.fail_async.enqueue("two")
    succeeded, _ = drain(raise_errors=False)
    assert succeeded.return_value == 1
    assert written() == ["one", "two"]
    assert states() == ["succeeded", "failed"]


def test_the_test_s_own_transaction_is_as_it_was_before(db, written):
    told = []
    with transaction.atomic():
        connection.on_commit(lambda: told.append("committed"))
        hooks, wrappers = connection.run_on_commit, connection.execute_wrappers
        savepoints, blocks = connection.savepoint_ids, connection.atomic_blocks
        drained.tell_after_commit.enqueue("one")
        drained.mark_and_fail.enqueue("two")
        drain(raise_errors=False)
        assert connection.in_atomic_block
        assert not connection.get_autocommit()
        assert connection.run_on_commit is hooks
        assert connection.execute_wrappers is wrappers
        assert connection.savepoint_ids is savepoints
        assert connection.atomic_blocks is blocks
        assert "_commit" not in vars(connection)
        assert len(written()) == 5
        transaction.set_rollback(True)
    assert not Job.objects.exists()
    assert written() == []


def test_queries_that_a_test_counts_are_those_of_its_jobs(db):
    add.enqueue(1)
    drain()  # the declarations of queues, once
    add.enqueue(1)
    drained.mark_and_fail.enqueue("one")
    with CaptureQueriesContext(connection) as queries:
        drain(raise_errors=False)
    assert [query["sql"] for query in queries if "tests_mark" in query["sql"]] == [
        "INSERT INTO tests_mark (key) VALUES ('one')"
    ]
    assert not [query["sql"] for query in queries if "SAVEPOINT pgonly" in query["sql"]]


# What is around a job.


@both
def test_nothing_of_a_job_s_context_is_left_behind_it(where):
    with override("en"):
        drained.speak_german.enqueue()
        drained.speak_german_async.enqueue()
        assert [result.return_value for result in drain()] == ["en", "en"]
        assert get_language() == "en"
    assert current_job.get() is None


def test_a_connection_that_a_job_opens_is_the_test_s(transactional_db, any_database):
    with alias("second"):
        drained.open_another_connection.enqueue("second")
        (result,) = drain()
        assert connections["second"].connection.info.backend_pid == result.return_value
        connections["second"].close()


@both
def test_steps_checkpoints_and_reports_are_kept_for_the_next_run(where, written):
    drained.save_and_fail_once.enqueue("one")
    with pytest.raises(ValueError, match="in the first run"):
        drain()
    job = Job.objects.get()
    assert job.progress == {"done": 1, "total": 2, "message": "half"}
    assert [line["text"] for line in job.log] == ["run 1"]
    assert list(Step.objects.values_list("name", flat=True)) == ["pay"]
    Job.objects.update(run_at=timezone.now() - timedelta(seconds=1))
    (result,) = drain()
    assert result.return_value == ["one", {"run": 2}]
    assert written() == ["one", "one:later"]


@both
def test_a_failure_calls_on_failure_and_sends_its_dead_letter(where, written, settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": "tests.jobs.burying.note"}}}
    telling.told.clear()
    result = burying.fail.using(on_failure="tests.jobs.telling.tell", max_attempts=1).enqueue()
    _, note = drain(raise_errors=False)
    assert telling.told == [(result.id, "FAILED", "ValueError('error')")]
    assert (note.task.module_path, note.args) == ("tests.jobs.burying.note", [result.id])
    assert written() == [result.id]


@both
def test_an_end_that_its_row_cannot_store_fails_the_job(where):
    drained.spoil_its_errors.enqueue()
    add.enqueue(1)
    drain(raise_errors=False)
    assert states() == ["failed", "succeeded"]


@pytest.mark.django_db(transaction=True)
def test_an_end_that_another_connection_keeps_from_being_written_is_named(other):
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '100ms'")
    drained.have_its_row_locked.enqueue(other.info.backend_pid)
    drained.LOCKS.append(other)
    try:
        with pytest.raises(DrainError, match=r"have_its_row_locked .* holds its row locked"):
            drain()
    finally:
        drained.LOCKS.clear()
        other.rollback()
        connection.close()


@both
def test_a_row_that_python_cannot_read_fails_its_job(where):
    add.enqueue(1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pgonly_job SET args = %s::jsonb", [f"[{'1' * 5000}]"])
    with pytest.raises(UnreadableJobError):
        drain()


@both
def test_notices_of_the_server_reach_those_who_listen_on_the_test_s_connection(where):
    heard = []
    connection.ensure_connection()
    connection.connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    add.enqueue(1)
    drain()
    with connection.cursor() as cursor:
        cursor.execute("DO $$ BEGIN RAISE WARNING 'here'; END $$")
    assert heard == ["here"]


@both
def test_a_job_may_delete_or_cancel_itself(where):
    drained.delete_its_row.enqueue()
    assert drain() == []
    drained.cancel_itself.enqueue()
    drain()
    assert states() == ["cancelled"]


@both
def test_signals_are_sent(where):
    heard = []

    def hear(signal, task_result, **_):
        heard.append((signal, task_result.status))

    for signal in (task_started, task_finished):
        signal.connect(hear)
    try:
        add.enqueue(1)
        drain()
    finally:
        for signal in (task_started, task_finished):
            signal.disconnect(hear)
    assert heard == [
        (task_started, TaskResultStatus.RUNNING),
        (task_finished, TaskResultStatus.SUCCESSFUL),
    ]


@both
def test_limited_jobs_run_within_their_limits(where, settings):
    settings.PGONLY = {
        **settings.PGONLY,
        "QUEUES": {"slow": {"rate": (1, 3600)}, "narrow": {"max_running": 1}},
    }
    for _ in range(2):
        add.using(queue_name="slow").enqueue(1)
        add.using(queue_name="narrow").enqueue(2)
        add.using(concurrency_key="one").enqueue(3)
        add.using(slots=4).enqueue(4)
    assert sorted(result.args[0] for result in drain()) == [1, 2, 2, 3, 3, 4, 4]
    assert Job.objects.waiting().get().queue == "slow"


@both
def test_limiters_and_the_cache_work_in_jobs(where, declared):
    declared(deepseek={"concurrent": 1})
    drained.use_a_limiter.enqueue(900)
    drained.use_the_cache.enqueue("one")
    drain()
    assert states() == ["succeeded", "succeeded"]


# Where it may be called.


def test_without_the_database_it_is_refused():
    with pytest.raises(RuntimeError, match=r"django_db.*The jobs are stored there"):
        drain()


def test_in_another_thread_than_the_test_s_it_is_refused(db):
    with ThreadPoolExecutor(1) as thread, pytest.raises(AssertionError, match="await adrain"):
        thread.submit(drain).result(30)


def test_in_a_coroutine_it_is_refused(db):
    async def in_the_loop():
        drain()

    with pytest.raises(SynchronousOnlyOperation, match="await adrain"):
        asyncio.run(in_the_loop())


@pytest.mark.django_db(transaction=True)
def test_adrain_awaits_the_same():
    async def in_the_loop():
        await add.aenqueue(1)
        results = await adrain()
        await sync_to_async(connections.close_all)()  # of asgiref's thread
        return results

    assert [result.return_value for result in asyncio.run(in_the_loop())] == [2]
