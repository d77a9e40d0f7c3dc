from __future__ import annotations

from datetime import timedelta
from unittest.mock import ANY

import pytest
from django.utils import timezone

from pgonly_django import enqueue_many
from pgonly_django.exceptions import WrongArgumentsError
from pgonly_django.models import Job
from pgonly_django.testing import assert_enqueued, assert_enqueues, assert_not_enqueued, drain, enqueued_jobs
from pgonly_django.testing.backends import NoRowsError
from tests.docs.assumed import DUMMY, IMMEDIATE
from tests.jobs import add, count_to, drained, echo, fail

pytestmark = pytest.mark.django_db


def refused(check, *args, **kwargs):
    """The message of a check that does not hold."""
    with pytest.raises(AssertionError) as caught:
        check(*args, **kwargs)
    return str(caught.value)


def test_enqueued_jobs_are_the_rows_in_order():
    add.enqueue(1)
    echo.using(queue_name="mail").enqueue("a")
    add.enqueue(2)
    drain(max_jobs=1)
    assert [job.args for job in enqueued_jobs()] == [[1], ["a"], [2]]
    assert [job.args for job in enqueued_jobs(add)] == [[1], [2]]
    assert [job.args for job in enqueued_jobs(queue="mail")] == [["a"]]
    assert enqueued_jobs(add, queue="mail") == []


def test_a_call_that_was_enqueued_is_found_and_its_rows_are_returned():
    first = add.enqueue(1, 2)
    assert [str(job.pk) for job in assert_enqueued(add)] == [first.id]
    assert_enqueued(add, args=[1, 2])
    assert_enqueued(add, [1, 2], count=1)
    add.enqueue(1, 2)
    assert len(assert_enqueued(add, count=2)) == 2


def test_the_message_shows_what_was_enqueued_instead():
    add.enqueue(1, b=3)
    message = refused(assert_enqueued, add, [2], queue="mail")
    assert message.startswith("tests.jobs.add(2) in queue 'mail' was not enqueued. Enqueued were:")
    assert message.endswith("Enqueued were:\n  tests.jobs.add(1, b=3) in queue 'default': ready")
    assert "tests.jobs.add was enqueued once, not twice." in refused(assert_enqueued, add, count=2)
    assert "was not enqueued, and was to be 3 times." in refused(assert_enqueued, echo, count=3)


def test_a_long_list_is_cut():
    enqueue_many((echo, ["x" * 1000]) for _ in range(25))
    message = refused(assert_enqueued, add)
    assert message.endswith("  and 5 more")
    assert len(message) < 6000


def test_arguments_are_compared_as_the_function_gets_them():
    add.enqueue(1)
    assert_enqueued(add, kwargs={"a": 1})
    assert_enqueued(add, [1], {"b": 1})  # its default
    refused(assert_enqueued, add, [1], {"b": 2})
    drained.take_a_pair.enqueue()
    assert_enqueued(drained.take_a_pair, [])
    assert_enqueued(drained.take_a_pair, [[1, 2]])
    count_to.enqueue(n=3)
    assert_enqueued(count_to, [3])  # without the context


def test_values_are_compared_as_json_has_them():
    echo.enqueue({"at": (1, 2), 3: b"text"})
    assert_enqueued(echo, [{"at": (1, 2), 3: b"text"}])
    assert_enqueued(echo, [{"at": [1, 2], "3": "text"}])
    assert_enqueued(echo, [{"at": ANY, "3": ANY}])
    refused(assert_enqueued, echo, [{"at": [1, 3], "3": "text"}])


def test_a_number_is_the_same_with_and_without_its_point():
    echo.enqueue({"n": [1.0, ANY is None]})
    assert_enqueued(echo, [{"n": [1, ANY]}])


@pytest.mark.parametrize(
    ("args", "kwargs"), [([], None), ([1, 2, 3], None), ([], {"c": 1}), ("12", None), (7, None)]
)
def test_arguments_that_enqueue_would_refuse_are_refused(args, kwargs):
    with pytest.raises(WrongArgumentsError):
        assert_enqueued(add, args, kwargs)


def test_a_stored_call_that_its_function_takes_no_more_is_another_call():
    add.enqueue(1)
    Job.objects.update(args=[1, 2, 3, 4])
    assert_not_enqueued(add, [1])
    add.enqueue(1)
    assert_enqueued(add, [1], count=1)


@pytest.mark.parametrize("given", [None, add.func, "tests.jobs.add"])
def test_it_needs_a_task(given):
    with pytest.raises(WrongArgumentsError, match="it needs"):
        assert_enqueued(given)


def test_run_after_is_a_time_a_delay_or_none():
    tomorrow = timezone.now() + timedelta(days=1)
    echo.using(run_after=tomorrow).enqueue("later")
    assert_enqueued(echo, run_after=tomorrow)
    assert_enqueued(echo, run_after=tomorrow + timedelta(seconds=0.5))
    assert_enqueued(echo, run_after=timedelta(days=1))
    assert "with run_after 2:00:00" in refused(assert_enqueued, echo, run_after=timedelta(hours=2))
    assert "without run_after" in refused(assert_enqueued, echo, run_after=None)
    add.enqueue(1)
    assert_enqueued(add, run_after=None)
    refused(assert_enqueued, add, run_after=tomorrow)


def test_what_was_not_enqueued():
    assert_not_enqueued()
    assert_not_enqueued(add)
    add.enqueue(1)
    assert_not_enqueued(add, [2])
    assert_not_enqueued(fail)
    assert_not_enqueued(queue="mail")
    assert "tests.jobs.add was enqueued once. Enqueued were:" in refused(assert_not_enqueued, add)
    assert refused(assert_not_enqueued).startswith(
        "Nothing should have been enqueued. Enqueued were:\n  tests.jobs.add(1)"
    )
    with pytest.raises(WrongArgumentsError, match="need the task"):
        assert_not_enqueued(args=[1])


def test_a_block_counts_what_it_enqueues_itself():
    add.enqueue(1)
    with assert_enqueues(add, [1]) as jobs:
        second = add.enqueue(1)
        drain()
    assert [str(job.pk) for job in jobs] == [second.id]
    with assert_enqueues(add, count=0):
        echo.enqueue(1)
    with pytest.raises(AssertionError, match="Nothing was enqueued"), assert_enqueues(add):
        pass
    with pytest.raises(ZeroDivisionError), assert_enqueues(add):
        raise ZeroDivisionError


@pytest.mark.parametrize("other", [IMMEDIATE, DUMMY])
def test_other_backends_have_no_rows(settings, other):
    settings.TASKS = other
    for check in (assert_enqueued, enqueued_jobs):
        with pytest.raises(NoRowsError, match="PostgresBackend"):
            check(add)


@pytest.mark.parametrize(
    ("enqueued", "looked_for"),
    [(True, 1), (1, True), (False, 0), ([{"n": 1}], [{"n": True}]), ({"a": [True]}, {"a": [1]}), (True, 1.0)],
)
def test_true_and_false_are_no_numbers(enqueued, looked_for):
    echo.enqueue(enqueued)
    assert_enqueued(echo, [enqueued])
    assert_not_enqueued(echo, [looked_for])


def every_check(queue):
    yield lambda: assert_not_enqueued(queue=queue)
    yield lambda: assert_not_enqueued(add, queue=queue)
    yield lambda: assert_enqueued(add, queue=queue, count=0)
    yield lambda: enqueued_jobs(queue=queue)
    yield lambda: assert_enqueues(add, queue=queue, count=0).__enter__()


def allow(settings, *queues):
    settings.TASKS = {"default": {**settings.TASKS["default"], "QUEUES": list(queues)}}


def test_a_check_of_a_queue_that_does_not_exist_is_refused(settings):
    allow(settings, "default", "mail")
    for check in every_check("mial"):
        with pytest.raises(WrongArgumentsError, match="TASKS has 'default', 'mail'"):
            check()
    for check in every_check("mail"):
        check()


def test_a_queue_that_has_jobs_exists(settings):
    add.using(queue_name="former").enqueue(1)
    allow(settings, "default")
    with pytest.raises(AssertionError):
        assert_not_enqueued(queue="former")


def test_where_every_name_is_allowed_a_misspelt_one_is_refused(settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"reviews": {"max_running": 1}}}
    add.using(queue_name="mail").enqueue(1)
    for name in ("mial", "review"):
        for check in every_check(name):
            with pytest.raises(WrongArgumentsError, match=f"no job is in queue '{name}'. Did you mean"):
                check()


@pytest.mark.parametrize("name", ["tenant-8", "tenant-b", "tenant", "bulk"])
def test_where_every_name_is_allowed_others_are_accepted(name):
    add.using(queue_name="tenant-7").enqueue(1)
    add.using(queue_name="tenant-a").enqueue(1)
    for check in every_check(name):
        check()
