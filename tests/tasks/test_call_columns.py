from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pgonly_django import enqueue_many, task
from pgonly_django.compat import InvalidTask
from pgonly_django.exceptions import OptionError
from pgonly_django.models import Job
from pgonly_django.models.job import State
from tests.tasks import calls
from tests.tasks.calls import add, heavy, per_account, per_account_by_function

pytestmark = pytest.mark.django_db


def limits():
    return list(Job.objects.order_by("id").values_list("concurrency_key", "concurrency_limit", "slots"))


def test_the_columns_of_a_call_follow_from_its_arguments():
    per_account.enqueue(7)
    per_account.enqueue(account_id=8, page=2)
    heavy.enqueue()
    add.enqueue(1)
    expected = [("account:7", 2, 1), ("account:8", 2, 1), (None, None, 4), (None, None, None)]
    assert limits() == expected
    Job.objects.all().delete()
    enqueue_many([(per_account, [7]), (per_account, [8, 2]), (heavy, []), (add, [1])])
    assert limits() == expected


def test_a_call_without_a_key_is_not_limited():
    per_account_by_function.enqueue(0)
    per_account_by_function.enqueue(3)
    assert limits() == [(None, None, None), ("3", 1, 1)]


def test_using_sets_and_takes_away_what_the_task_declares():
    per_account.using(concurrency_key=None).enqueue(7)
    per_account.using(concurrency_limit=5, slots=2).enqueue(7)
    add.using(concurrency_key="{b}").enqueue(1)
    assert limits() == [(None, None, None), ("account:7", 5, 2), ("1", 1, 1)]


def test_defaults_of_a_queue_hold_for_its_tasks(settings):
    options = {"queues": {"ai": {"concurrency_key": "a:{a}"}}}
    settings.TASKS = {"default": {**settings.TASKS["default"], "OPTIONS": options}}
    add.enqueue(1)
    add.using(queue_name="ai").enqueue(1)
    assert limits() == [(None, None, None), ("a:1", 1, 1)]
    calls.any_number.enqueue(1)
    with pytest.raises(OptionError, match=r"any_number\(\) has no argument 'a'"):
        calls.any_number.using(queue_name="ai").enqueue(1)


def test_a_name_that_is_no_argument_is_refused_where_the_task_is_declared():
    with pytest.raises(
        InvalidTask, match=r"@task linear: concurrency_key: .* 'atempt'. Did you mean 'attempt'"
    ):
        task(concurrency_key="{atempt}")(calls.linear)
    with pytest.raises(InvalidTask, match="no argument 'c'"):
        add.using(concurrency_key="{c}")


@pytest.mark.parametrize("wrong", [1.5, True, ["a"], object()])
def test_a_key_of_another_type_writes_nothing(wrong):
    with pytest.raises(OptionError, match=r"concurrency_key of add\(\) must return a str, an int or None"):
        add.using(concurrency_key=lambda a: wrong).enqueue(1)
    assert not Job.objects.exists()


def test_an_error_of_the_callable_reaches_the_caller_and_writes_nothing():
    with pytest.raises(ZeroDivisionError):
        add.using(concurrency_key=lambda a: 1 / a).enqueue(0)
    assert not Job.objects.exists()


def test_what_a_callable_does_to_the_arguments_changes_no_job():
    add.using(concurrency_key=lambda a: a.pop()).enqueue(["key"])
    assert Job.objects.get().args == [["key"]]


def test_plain_jobs_name_no_column_that_they_do_not_set():
    with CaptureQueriesContext(connection) as queries:
        add.enqueue(1)
    (statement,) = [query["sql"] for query in queries if "INSERT" in query["sql"]]
    assert "slots" not in statement
    assert "dead_letter_queue" not in statement


def test_plain_and_limited_jobs_share_one_copy_and_stay_in_order():
    later = add.using(queue_name="other", retention=None)
    enqueue_many([(per_account, [1]), (add, ["x\ty"]), (later, [3]), (heavy, [])])
    rows = Job.objects.order_by("id").values_list("args", "queue", "slots", "state")
    assert list(rows) == [
        ([1], "default", 1, State.READY),
        (["x\ty"], "default", None, State.READY),
        ([3], "other", None, State.READY),
        ([], "default", 4, State.READY),
    ]
