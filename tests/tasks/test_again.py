"""run_again(): a new job with the call of one that is there."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Job, State
from pgonly_django.tasks.editing import EditError, run_again
from tests.jobs import editing
from tests.queue.rows import make

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def again(job, **changes):
    fields = ("queue", "priority", "args", "kwargs")
    call = {name: getattr(job, name) for name in fields} | {"run_at": None} | changes
    return run_again(job, **call)


def row(result) -> Job:
    return Job.objects.get(pk=result.id)


def test_the_new_job_has_the_same_call_and_begins_from_scratch():
    old = row(editing.plain.using(queue_name="ai", priority=7).enqueue(1, flag=True))
    Job.objects.update(state=State.FAILED, attempt=4, errors=[{}])
    new = row(again(Job.objects.get()))
    assert new.pk != old.pk
    assert (new.task, new.queue, new.priority, new.args, new.kwargs) == (
        old.task,
        "ai",
        7,
        [1],
        {"flag": True},
    )
    assert (new.state, new.attempt, new.errors) == (State.READY, 0, [])


def test_the_options_of_its_call_are_those_of_the_new_one():
    options = {"max_attempts": 9, "max_runtime": HOUR, "atomic": True, "never_retry": (ValueError,)}
    old = row(editing.plain.using(**options).enqueue(1))
    new = row(again(old))
    assert (new.max_attempts, new.max_runtime, new.options) == (9, HOUR, old.options)


@pytest.mark.parametrize(
    "options",
    [
        {"retention": HOUR},
        {"retention": None},
        {"failed_retention": HOUR},
        {"failed_retention": None},
        {"slots": 3},
        {"concurrency_limit": 2},
        {"concurrency_key": "{note}", "concurrency_limit": 2, "slots": 2},
        {"concurrency_key": None},
        {"concurrency_key": lambda *_args, **_kwargs: "{braces}"},
        {"dead_letter_queue": None},
    ],
)
def test_those_that_have_columns_as_well(options):
    columns = (
        "retention", "failed_retention", "slots", "concurrency_limit", "concurrency_key", "dead_letter_queue",
    )  # fmt: skip
    old = row(editing.keyed.using(unique=False, **options).enqueue("7", note="mine"))
    new = row(again(old, args=["8"], kwargs={"note": "other"}))
    seen, wanted = ({name: getattr(each, name) for name in columns} for each in (new, old))
    if wanted["concurrency_key"] == "account:7":  # the task's rule, for the new arguments
        wanted["concurrency_key"] = "account:8"
    assert seen == wanted


def test_a_dead_letter_queue_of_its_call_is_that_of_the_new_one_while_it_has_a_task(settings):
    old = row(editing.plain.enqueue(1))
    Job.objects.filter(pk=old.pk).update(dead_letter_queue="letters")
    old.refresh_from_db()
    assert row(again(old)).dead_letter_queue is None
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"letters": {"task": "tests.jobs.add"}}}
    assert row(again(old)).dead_letter_queue == "letters"


def test_arguments_that_do_not_fit_any_more_may_be_replaced():
    old = make(
        task="tests.jobs.editing.keyed", args=[], kwargs={"gone": 1}, concurrency_key="account:9", slots=1
    )
    assert row(again(old, args=["8"], kwargs={})).concurrency_key == "account:8"


def test_other_arguments_another_queue_and_a_later_time():
    later = timezone.now() + HOUR
    new = row(again(row(editing.plain.enqueue(1)), args=[2, "y"], queue="ai", run_at=later))
    assert (new.args, new.queue, new.state, new.run_at) == ([2, "y"], "ai", State.SCHEDULED, later)


def test_a_unique_job_that_is_still_there_is_the_result():
    old = row(editing.keyed.enqueue("7"))
    result = again(old)
    assert (result.id, result.is_duplicate) == (str(old.pk), True)
    assert Job.objects.count() == 1


def test_an_idempotency_key_is_not_repeated():
    old = row(editing.keyed.using(idempotency_key="x").enqueue("7"))
    assert row(again(old)).pk != old.pk


@pytest.mark.parametrize(
    ("facts", "changes", "says"),
    [
        ({"task": "shop.gone"}, {}, "Cannot import"),
        ({"args": [1, 2, 3]}, {}, "too many positional"),
        ({"args": "text"}, {}, "must be a list"),
        ({"options": {"backoff": "shop.gone.backoff"}}, {}, "shop"),
        ({}, {"queue": ""}, "queue_name"),
        ({"backend": "gone"}, {}, "TASKS has no backend 'gone'"),
    ],
)
def test_what_cannot_be_enqueued_is_said_in_words(facts, changes, says):
    old = make(**{"task": "tests.jobs.editing.plain", "args": [1], **facts})
    with pytest.raises(EditError, match=says):
        again(old, **changes)
    assert Job.objects.count() == 1
