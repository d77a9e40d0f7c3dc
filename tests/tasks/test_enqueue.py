from __future__ import annotations

import copy
import logging
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django import enqueue_many
from pgonly_django.compat import InvalidTask, TaskResultStatus, task_enqueued, task_finished, tasks_logger
from pgonly_django.exceptions import NotStorableError, WrongArgumentsError
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.queue.values import NESTING_LIMIT
from pgonly_django.tables import qualified
from pgonly_django.tasks.backend import has_receivers
from tests import jobs
from tests.jobs import nest
from tests.sql import sql
from tests.tasks import calls
from tests.tasks.calls import add, backend, with_options

HOUR = timedelta(hours=1)


@pytest.mark.django_db
def test_one_insert_writes_the_job():
    with CaptureQueriesContext(connection) as queries:
        result = add.enqueue(1, b=["x", None])
    assert [query["sql"].split()[:3] for query in queries if "INSERT" in query["sql"]] == [
        ["INSERT", "INTO", qualified("pgonly_job")]
    ]
    row = Job.objects.get()
    assert (str(row.id), row.task, row.args, row.kwargs) == (
        result.id,
        "tests.tasks.calls.add",
        [1],
        {"b": ["x", None]},
    )
    assert (row.state, row.backend, row.queue, row.priority) == (State.READY, "default", "default", 0)
    assert (row.lease_epoch, row.attempt, row.max_attempts, row.errors, row.log) == (0, 0, 8, [], [])


@pytest.mark.django_db
def test_the_result_tells_what_was_enqueued_as_json_has_it():
    result = add.enqueue((1, 2), b={3: b"bytes"})
    assert (result.args, result.kwargs) == ([[1, 2]], {"b": {"3": "bytes"}})
    assert (result.status, result.attempts, result.errors) == (TaskResultStatus.READY, 0, [])
    assert result.enqueued_at == Job.objects.get().enqueued_at
    assert result.task is add


@pytest.mark.django_db
def test_the_options_of_task_and_call_reach_the_row():
    with_options.using(
        priority=7, queue_name="50 % \\ 'quoted' {x}", max_attempts=9, backoff=calls.linear, atomic=True
    ).enqueue()
    row = Job.objects.get()
    assert (row.priority, row.queue, row.max_attempts) == (7, "50 % \\ 'quoted' {x}", 9)
    assert (row.max_runtime, row.retention) == (timedelta(minutes=5), None)
    assert row.options == {"atomic": True, "backoff": "tests.tasks.calls.linear"}


@pytest.mark.django_db
def test_a_copy_of_a_task_enqueues_what_the_task_does():
    copy.deepcopy(with_options).enqueue()
    assert Job.objects.get().max_attempts == 2


@pytest.mark.django_db
@pytest.mark.parametrize(("ahead", "state"), [(HOUR, State.SCHEDULED), (-HOUR, State.READY)])
def test_a_job_for_later_is_scheduled_and_one_for_earlier_is_ready(ahead, state):
    run_at = timezone.now() + ahead
    add.using(run_after=run_at).enqueue(1)
    row = Job.objects.get()
    assert (row.state, row.run_at) == (state, run_at)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        ([], {}, WrongArgumentsError),
        ([1], {"c": 1}, WrongArgumentsError),
        ([1], {"b": "\udc80"}, NotStorableError),
        ([nest(NESTING_LIMIT)], {}, NotStorableError),
    ],
)
def test_a_call_that_cannot_run_writes_nothing(args, kwargs, error):
    with pytest.raises(error):
        add.enqueue(*args, **kwargs)
    assert not Job.objects.exists()


@pytest.mark.django_db
def test_new_settings_hold_for_tasks_enqueued_before(settings):
    add.enqueue(1)
    options = {"max_attempts": 9}
    settings.TASKS = {"default": {**settings.TASKS["default"], "OPTIONS": options}}
    add.enqueue(1)
    assert sorted(Job.objects.values_list("max_attempts", flat=True)) == [8, 9]


@pytest.mark.django_db
def test_many_tasks_made_for_one_call_each_are_not_kept():
    for number in range(3000):
        backend()._prepare(add.using(priority=number % 100))
    assert len(backend()._prepared) <= 1024


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_enqueue_leaves_nothing_and_is_not_announced(announced):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add.enqueue(1)
        raise ZeroDivisionError
    assert not Job.objects.exists()
    assert announced == []


@pytest.mark.django_db(transaction=True)
def test_enqueue_is_announced_once_it_has_committed(announced):
    with transaction.atomic():
        result = add.enqueue(1)
        assert announced == []
    assert announced == [result]


@pytest.mark.django_db(transaction=True)
def test_an_async_enqueue_is_part_of_its_caller_s_transaction(announced):
    with transaction.atomic():
        result = async_to_sync(add.aenqueue)(1)
        assert announced == []
    assert str(Job.objects.get().id) == result.id
    assert announced == [result]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("enqueue", [lambda: [add.enqueue(1)], lambda: enqueue_many([(add, [1])])])
@pytest.mark.parametrize("around", [transaction.atomic, nullcontext])
def test_a_receiver_that_raises_costs_the_caller_nothing(enqueue, around, caplog):
    """The job is committed by then: an error would have it enqueued once more."""

    def fail(**_):
        raise ZeroDivisionError

    task_enqueued.connect(fail)
    try:
        with around():
            (result,) = enqueue()
    finally:
        task_enqueued.disconnect(fail)
    assert str(Job.objects.get().id) == result.id
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.django_db
def test_without_time_zones_a_naive_time_means_the_default_zone(settings):
    settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Tokyo"
    at = datetime(2030, 1, 1, 12)
    add.using(run_after=at).enqueue(1)
    enqueue_many([(add.using(run_after=at), [1])])
    found = sql("SELECT state, run_at AT TIME ZONE 'UTC' FROM pgonly_job")
    assert found == [("scheduled", datetime(2030, 1, 1, 3))] * 2


@pytest.mark.django_db
def test_the_two_times_of_an_hour_that_comes_twice_are_told_apart():
    first = datetime(2030, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    for at in (first, first.replace(fold=1)):
        calls.per_account.using(run_after=at).enqueue(1)
    found = sql("SELECT run_at AT TIME ZONE 'UTC' FROM pgonly_job ORDER BY id")
    assert found == [(datetime(2030, 10, 27, hour, 30),) for hour in (0, 1)]


def test_a_task_under_another_name_than_its_function_is_refused_where_a_worker_would_not_find_it(db):
    with pytest.raises(
        InvalidTask, match=r"look for this task at tests\.jobs\.bound_elsewhere, and there is a function"
    ):
        jobs.under_another_name.enqueue(1)
    assert not Job.objects.exists()


@pytest.fixture
def enqueued(caplog):
    """The lines that enqueue() logs on our own logger, below INFO."""
    caplog.set_level(logging.INFO, tasks_logger.name)
    caplog.set_level(logging.DEBUG, "pgonly_django.queue")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "pgonly_django.queue"]


@pytest.mark.django_db(transaction=True)
def test_a_committed_enqueue_has_one_line_at_debug(enqueued):
    with transaction.atomic():
        result = add.enqueue(1)
        assert enqueued() == []
    assert enqueued() == [("DEBUG", f"tests.tasks.calls.add {result.id}: enqueued to default.")]


@pytest.mark.django_db(transaction=True)
def test_each_job_of_a_batch_has_its_line_and_says_when_it_is_due(enqueued):
    due = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    results = enqueue_many([(add.using(run_after=due, queue_name="later"), (n,)) for n in range(2)])
    assert enqueued() == [
        ("DEBUG", f"tests.tasks.calls.add {result.id}: enqueued to later, due 2031-05-06 07:08:09 UTC.")
        for result in results
    ]


@pytest.mark.django_db(transaction=True)
def test_where_django_logs_the_enqueue_its_line_is_enough(enqueued, caplog):
    caplog.set_level(logging.DEBUG, tasks_logger.name)
    result = add.enqueue(1)
    assert enqueued() == []
    assert sum(result.id in message for message in caplog.messages) == 1


@pytest.fixture
def quiet(caplog):
    """Nobody listens and nothing below a warning is logged."""
    with caplog.at_level(logging.WARNING, tasks_logger.name):
        yield caplog


def test_a_signal_that_only_django_would_log_is_not_heard_while_it_would_not(quiet):
    assert not has_receivers(task_finished, logging.INFO)
    assert has_receivers(task_finished, logging.ERROR)
    with quiet.at_level(logging.INFO, tasks_logger.name):
        assert has_receivers(task_finished, logging.INFO)


def test_a_receiver_of_the_project_s_hears_whatever_is_logged(quiet):
    def receiver(**facts): ...

    task_finished.connect(receiver)
    try:
        assert has_receivers(task_finished, logging.INFO)
    finally:
        task_finished.disconnect(receiver)
    assert not has_receivers(task_finished, logging.INFO)
