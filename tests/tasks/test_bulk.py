from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django import enqueue_many
from pgonly_django.exceptions import NotStorableError, WrongArgumentsError
from pgonly_django.models import Job
from tests.tasks.calls import add, with_options

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def test_ten_thousand_jobs_take_a_few_statements_and_keep_their_order():
    with CaptureQueriesContext(connection) as queries:
        results = enqueue_many((add, [number]) for number in range(10_000))
    assert len(queries) <= 4
    assert [result.args for result in results] == [[number] for number in range(10_000)]
    ids = [str(job_id) for job_id in Job.objects.order_by("id").values_list("id", flat=True)]
    assert ids == [result.id for result in results]
    assert list(Job.objects.order_by("ready_at", "id").values_list("args", flat=True)[:3]) == [[0], [1], [2]]


def test_jobs_written_together_are_as_good_as_jobs_written_alone():
    tasks = [
        add.using(run_after=timezone.now() + HOUR, queue_name="a\tb\\n", priority=-3),
        with_options.using(atomic=True, retention=timedelta(days=400, microseconds=5)),
        add,
    ]
    calls = [
        (tasks[0], ["tab\t, newline\n, \\N, \\."], {"b": "\r\x7f🎈"}),
        (tasks[1], []),
        (tasks[2], [None]),
        (tasks[2], [], QueryDict("a=1&a=2")),
    ]
    enqueue_many(calls)
    together = rows()
    Job.objects.all().delete()
    for task, args, *kwargs in calls:
        task.enqueue(*args, **(kwargs[0] if kwargs else {}))
    assert together == rows()


def rows():
    own = ("id", "ready_at", "enqueued_at")
    return [
        {name: value for name, value in row.items() if name not in own}
        for row in Job.objects.order_by("id").values()
    ]


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        ((add, [1, object()]), NotStorableError, "Argument 'b' of add"),
        ((add, ["\x00"]), NotStorableError, "Argument 'a' of add"),
        ((add, []), WrongArgumentsError, "missing"),
    ],
)
def test_one_bad_call_among_many_is_named_and_nothing_is_written(call, error, named):
    with pytest.raises(error, match=named):
        enqueue_many([*[(add, [number]) for number in range(100)], call])
    assert not Job.objects.exists()


def test_nothing_to_enqueue_is_no_statement(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert enqueue_many([]) == []


def test_all_roll_back_together():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        enqueue_many([(add, [number]) for number in range(10)])
        raise ZeroDivisionError
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_every_job_is_announced_after_the_commit(announced):
    with transaction.atomic():
        results = enqueue_many([(add, [1]), (add, [2])])
        assert announced == []
    assert announced == results


def test_calls_of_several_backends_come_back_in_order(settings):
    settings.TASKS = {"default": settings.TASKS["default"], "second": settings.TASKS["default"]}
    second = add.using(backend="second")
    results = enqueue_many([(add, [0]), (second, [1]), (add, [2]), (second, [3])])
    assert [(result.backend, result.args) for result in results] == [
        ("default", [0]),
        ("second", [1]),
        ("default", [2]),
        ("second", [3]),
    ]


def test_backends_are_written_in_one_order_or_two_processes_would_wait_for_each_others_keys(settings):
    settings.TASKS = {"default": settings.TASKS["default"], "second": settings.TASKS["default"]}
    second = add.using(backend="second")
    for calls in [(second, [1]), (add, [0])], [(add, [0]), (second, [1])]:
        enqueue_many(calls)
    written = Job.objects.order_by("pk").values_list("backend", flat=True)
    assert list(written) == ["default", "second"] * 2


@pytest.mark.django_db(transaction=True)
def test_calls_of_several_backends_are_written_all_or_none(settings):
    settings.TASKS = {"default": settings.TASKS["default"], "second": settings.TASKS["default"]}
    written = []

    def cut_at_the_second(execute, sql, params, many, context):
        if "clock_timestamp" in sql:
            written.append(Job.objects.count())
            if len(written) == 2:
                raise ConnectionError
        return execute(sql, params, many, context)

    with connection.execute_wrapper(cut_at_the_second), pytest.raises(ConnectionError):
        enqueue_many([(add, [0]), (add.using(backend="second"), [1])])
    assert written == [0, 1]
    assert not Job.objects.exists()
