from __future__ import annotations

import sys
import threading
import time

import pytest

from pgonly_django import task
from pgonly_django.compat import InvalidTask, TaskResultStatus, task_enqueued, task_finished, task_started
from pgonly_django.duties import Workplace
from pgonly_django.exceptions import OptionError
from pgonly_django.models.job_rows import CRASHES_ALLOWED
from pgonly_django.tasks import PostgresBackend
from pgonly_django.tasks.failures import check_on_failure
from pgonly_django.worker import end_calls, lanes
from pgonly_django.worker.housekeeper import Housekeeper
from pgonly_django.worker.task_lookup import TaskLookup
from tests import jobs
from tests.jobs import burying, ending, telling
from tests.jobs.telling import told
from tests.queue.rows import HOUR, ago, make_running, make_worker
from tests.waiting import wait_for

FAILED = str(TaskResultStatus.FAILED)


@pytest.fixture(autouse=True)
def nothing_told():
    told.clear()
    telling.hanging.clear()
    yield
    telling.hanging.set()
    for thread in threading.enumerate():
        if thread.name == "pgonly-on-failure":
            thread.join(10)  # or a call of this test is told in the next one


def test_the_function_is_called_once_with_the_result_and_the_error_of_the_last_attempt(ran):
    result = ran(telling.fail, "why")
    assert told == [(result.id, FAILED, "ValueError('why')")]


def test_a_success_and_a_retry_call_nobody(ran):
    ran(ending.fail_until.using(on_failure=telling.tell), 2)
    assert told == []


@pytest.mark.parametrize(
    ("task", "args", "error"),
    [
        (ending.give_up, [], "Discard('pointless')"),
        (burying.fail.using(dead_letter_queue=None), ["unstorable"], "NotStorable"),
        (ending.ask_for_retry, [], "Retry('please')"),
    ],
)
def test_every_end_of_a_run_that_fails_is_told(ran, task, args, error):
    result = ran(task.using(on_failure=telling.tell), *args)
    ((job_id, status, text),) = told
    assert (job_id, status) == (result.id, FAILED)
    assert error in text


def test_a_third_death_is_told_without_an_error_and_sends_a_dead_letter(background_worker, marks, settings):
    queues = {"dead": {"task": "tests.jobs.burying.note"}}
    settings.PGONLY = {**settings.PGONLY, "LEASE_SECONDS": 2, "QUEUES": queues}
    facts = {"crashes": CRASHES_ALLOWED - 1, "lease_expires_at": ago(HOUR), "dead_letter_queue": "dead"}
    job = make_running(make_worker(silent_for=HOUR).pk, task="tests.jobs.telling.fail", **facts)
    background_worker()
    wait_for(lambda: told == [(str(job.pk), FAILED, "None")])
    wait_for(lambda: marks() == [str(job.pk)], what="the letter")


def test_the_function_of_all_tasks_is_called_after_the_tasks_own(run_jobs, settings):
    settings.PGONLY = {**settings.PGONLY, "ON_FAILURE": "tests.jobs.telling.tell_globally"}
    one = telling.fail.enqueue()
    run_jobs()
    other = jobs.fail.enqueue()
    run_jobs()
    assert told == [(one.id, FAILED, "ValueError('x')"), ("all", one.id), ("all", other.id)]


def test_a_task_that_is_gone_is_told_to_the_function_of_all_tasks(run_jobs, settings):
    settings.PGONLY = {**settings.PGONLY, "ON_FAILURE": "tests.jobs.telling.tell_globally"}
    result = telling.fail.enqueue()
    row = result.job
    since = ago(2 * HOUR).isoformat()
    row.task, row.errors = "tests.jobs.no_such", [{"outcome": "postponed", "since": since}]
    row.save()
    run_jobs()
    assert told == [("all", result.id)]


def test_an_async_function_is_run(ran):
    result = ran(telling.fail.using(on_failure=telling.atell))
    assert told == [(result.id, "failed")], "after the commit"


@pytest.mark.parametrize("function", [telling.raises, telling.leaves])
def test_a_function_that_raises_or_exits_is_logged_and_keeps_no_other_from_being_called(
    work, settings, caplog, function
):
    settings.PGONLY = {**settings.PGONLY, "ON_FAILURE": "tests.jobs.telling.tell_globally"}
    results = [telling.fail.using(on_failure=function).enqueue() for _ in range(2)]
    assert work(threads=1).code == 0
    assert sorted(map(str, told)) == sorted(
        [*(result.id for result in results), *(str(("all", result.id)) for result in results)]
    )
    assert caplog.text.count("The on_failure of tests.jobs.telling.fail") == 2


def test_a_path_that_cannot_be_imported_any_more_is_logged(ran, caplog):
    ran(telling.fail.using(on_failure="tests.jobs.telling.gone"))
    assert "The on_failure of tests.jobs.telling.fail" in caplog.text
    assert "gone" in caplog.text


def test_a_transaction_that_the_function_leaves_open_is_rolled_back(work, marks, caplog):
    telling.fail.using(on_failure=telling.leaves_a_transaction_open).enqueue()
    telling.fail.enqueue()
    work(threads=1)
    assert marks() == []
    assert "left a transaction open" in caplog.text
    assert len(told) == 1


def test_a_function_that_hangs_keeps_one_thread_and_the_next_failures_get_another(
    background_worker, monkeypatch, caplog
):
    monkeypatch.setattr(lanes, "HANGS_SECONDS", 0.1)
    first = telling.fail.using(on_failure=telling.hangs).enqueue()
    background_worker()
    wait_for(lambda: told == [first.id])
    others = [telling.fail.enqueue() for _ in range(3)]
    wait_for(lambda: len(told) == 4)
    assert {entry[0] for entry in told[1:]} == {result.id for result in others}
    assert "An on_failure has not returned for 0.1 s." in caplog.text
    assert jobs.add.enqueue(1).wait(10).return_value == 2, "jobs go on meanwhile"


def test_only_so_many_threads_hang(background_worker, monkeypatch, caplog):
    monkeypatch.setattr(lanes, "HANGS_SECONDS", 0.05)
    background_worker()
    for _ in range(end_calls.THREADS_AT_MOST + 3):
        telling.fail.using(on_failure=telling.hangs).enqueue()
    wait_for(lambda: f"Threads that are stuck: {end_calls.THREADS_AT_MOST}." in caplog.text)
    assert jobs.add.enqueue(1).wait(10).return_value == 2
    assert len(told) == end_calls.THREADS_AT_MOST


def test_failures_that_are_too_many_to_wait_are_left_out_and_named(background_worker, monkeypatch, caplog):
    monkeypatch.setattr(end_calls, "WAITING_AT_MOST", 1)
    worker = background_worker()
    first = telling.fail.using(on_failure=telling.hangs).enqueue()
    wait_for(lambda: told == [first.id])
    second = telling.fail.enqueue()
    wait_for(lambda: worker.calls.failures.waiting == 1)
    third = telling.fail.enqueue()
    wait_for(
        lambda: f"1 failures wait for their on_failure; {third.task.module_path} {third.id}" in caplog.text
    )
    telling.hanging.set()
    wait_for(lambda: [entry[0] for entry in told[1:]] == [second.id])


def takes_one(result): ...


@pytest.mark.parametrize("value", [takes_one, 3, "nodots", ValueError, print.__class__])
def test_what_cannot_be_called_with_both_is_refused_where_it_is_written(value):
    rule = r"on_failure must be a function \(task_result, error\), its dotted path, or None, got"
    with pytest.raises(InvalidTask, match=rule):
        task(on_failure=value)(takes_one)
    with pytest.raises(OptionError, match=rule):
        telling.fail.using(on_failure=value)


def test_a_function_that_no_worker_could_find_is_refused_when_enqueued(transactional_db):
    with pytest.raises(OptionError, match=r"using\(on_failure=...\) is stored with the job, so it must be a"):
        telling.fail.using(on_failure=lambda result, error: None).enqueue()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("tests.jobs.telling.gone", "cannot be imported: ImportError"),
        ("tests.exits_when_imported.function", "cannot be imported: SystemExit"),
        ("tests.worker.test_end_calls.takes_one", "must be the dotted path of a function"),
    ],
)
def test_a_wrong_path_in_the_settings_is_an_error_of_the_checks(settings, path, says):
    settings.PGONLY = {"ON_FAILURE": path}
    (error,) = check_on_failure()
    assert error.id == "pgonly_django.E011"
    assert says in error.msg
    settings.PGONLY = {"ON_FAILURE": "tests.jobs.telling.tell"}
    assert check_on_failure() == []


def test_receivers_of_task_finished_find_the_exception_where_django_promises_it(run_jobs, receive):
    seen = []
    receive(task_finished, lambda sender, task_result, **_: seen.append(sys.exc_info()[1]))
    jobs.fail.using(max_attempts=1).enqueue("broken")
    jobs.add.enqueue(1)
    run_jobs()
    assert sorted(map(repr, seen)) == ["None", "ValueError('broken')"]


def test_a_receiver_that_runs_is_asked_and_waited_for(transactional_db, receive):
    begun, goes_on, seen = threading.Event(), threading.Event(), []

    def receiver(sender, task_result, **_):
        begun.set()
        goes_on.wait(10)
        seen.append(task_result.id)

    receive(task_finished, receiver)
    calls = end_calls.EndCalls("default", TaskLookup(), Housekeeper(Workplace("default"), []))
    job = jobs.add.enqueue(1)
    calls.hear_rescued(job.id, has_failed=False)
    assert begun.wait(10)
    assert calls.are_going
    calls.rest()
    goes_on.set()
    calls.close(time.monotonic() + 10)
    assert seen == [job.id]


def test_the_signals_come_with_the_backend_as_sender_and_the_right_status(worked, receive):
    seen = []

    def listen(signal, name):
        receive(
            signal,
            lambda sender, task_result, **_: seen.append((name, sender, task_result.status, task_result.id)),
        )

    for signal, name in ((task_enqueued, "enqueued"), (task_started, "started"), (task_finished, "finished")):
        listen(signal, name)
    job_id = worked(jobs.add, 1).id
    assert seen == [
        ("enqueued", PostgresBackend, TaskResultStatus.READY, job_id),
        ("started", PostgresBackend, TaskResultStatus.RUNNING, job_id),
        ("finished", PostgresBackend, TaskResultStatus.SUCCESSFUL, job_id),
    ]


def test_a_failed_job_is_announced_once_with_its_errors(ran, receive):
    seen = []

    def receiver(sender, task_result, **_):
        seen.append((task_result.status, [error.exception_class for error in task_result.errors]))

    receive(task_finished, receiver)
    ran(jobs.fail)
    assert seen == [(TaskResultStatus.FAILED, [ValueError] * 3)]
