"""The waits of the job context."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from django.db import connection, transaction

from pgonly_django import send_event
from pgonly_django.context import transactions
from pgonly_django.context.detached import DetachedContext
from pgonly_django.exceptions import (
    CannotWaitError,
    JobCancelled,
    JobStopped,
    JobTimedOut,
    JobWaiting,
    StepNameError,
    WrongArgumentsError,
)
from pgonly_django.models import Step, Wait
from tests.jobs import add


def test_what_a_person_is_asked_stands_in_the_row(context):
    with pytest.raises(JobWaiting):
        context.wait_for_event("k", 60, choices=("yes", "no"), question="Is it?\0", keep_concurrency_key=True)
    wait = Wait.objects.get()
    assert (wait.key, wait.name, wait.choices, wait.question, wait.kept_key) == (
        "k",
        "event k",
        ["yes", "no"],
        "Is it?\\x00",
        None,  # the job has none
    )
    assert timedelta(0) < wait.until - wait.began_at <= timedelta(seconds=60)


@pytest.mark.parametrize("choices", ["yes", [1]])
def test_choices_are_texts(context, choices):
    with pytest.raises(WrongArgumentsError, match="choices must be a list of texts"):
        context.wait_for_event("k", choices=choices)


@pytest.mark.parametrize("timeout", ["1", True, float("nan")])
def test_a_timeout_is_a_time(context, timeout):
    with pytest.raises(WrongArgumentsError, match="delay must be a timedelta or seconds"):
        context.wait_for_event("k", timeout)


@pytest.mark.parametrize("timeout", [timedelta.max, 1e300])
def test_a_timeout_that_is_longer_than_postgresql_can_add_is_cut(context, timeout):
    with pytest.raises(JobWaiting):
        context.wait_for_event("k", timeout)
    assert Wait.objects.get().until.year < 3000


@pytest.mark.parametrize("name", ["", "x" * 250, "x" * 256, 7])
def test_a_name_that_cannot_be_stored_is_refused(context, name):
    with pytest.raises(StepNameError):
        context.sleep(name, 0)
    assert not Wait.objects.exists()


@pytest.mark.parametrize(
    ("wish", "raised"),
    [("stop_requested", JobStopped), ("cancel_requested", JobCancelled), ("timed_out", JobTimedOut)],
)
def test_a_run_that_has_to_end_begins_no_wait(context, wish, raised):
    setattr(context._run, wish, True)
    with pytest.raises(raised):
        context.sleep("a while", 60)
    assert not Wait.objects.exists()


def test_nothing_begins_after_a_wait_was_swallowed(context):
    with pytest.raises(JobWaiting):
        context.sleep("a while", 60)
    assert context.should_stop
    for call in (lambda: context.step("s", add.func, 1), lambda: context.sleep("b", 0), context.stop):
        with pytest.raises(JobWaiting):
            call()


def test_a_wait_is_refused_in_a_transaction_also_where_it_has_its_answer(context):
    send_event("k")
    context.wait_for_event("k")
    with transaction.atomic(), pytest.raises(CannotWaitError, match="it is in a transaction"):
        context.wait_for_event("k")
    context.wait_for_event("k")


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("is_answered", [True, False])
def test_a_wait_whose_connection_is_cut_before_a_statement_goes_on(
    context, server, monkeypatch, place, is_answered
):
    monkeypatch.setattr(transactions, "PAUSE_SECONDS", 0.01)
    if is_answered:
        send_event("k", 7)
    places = itertools.count()

    def cut_once(execute, *arguments):
        if next(places) == place:
            server.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
        return execute(*arguments)

    with connection.execute_wrapper(cut_once):
        if is_answered:
            assert context.wait_for_event("k") == 7
        else:
            with pytest.raises(JobWaiting):
                context.wait_for_event("k")
    assert next(places) == 4
    assert (Step.objects.count(), Wait.objects.count()) == ((1, 0) if is_answered else (0, 1))


def test_a_task_of_another_backend_cannot_wait():
    class Result:
        id, attempts, task = "1", 1, add

    with pytest.raises(CannotWaitError, match="does not run in a worker"):
        DetachedContext(Result()).sleep("a while", 1)
