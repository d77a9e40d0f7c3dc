"""edit(): what a person may change of a job that waits."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from pgonly_django.models import Job, State
from pgonly_django.tasks.editing import EditError, edit, run_again, version_of
from tests.jobs import editing
from tests.queue.rows import fresh, make, make_running
from tests.waiting import beside

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = timedelta(hours=1)


def enqueue(task, *args, **kwargs) -> Job:
    return Job.objects.get(pk=task.enqueue(*args, **kwargs).id)


def change(job, version=None, **changes):
    return edit("default", job.pk, version or version_of(job), changes)


def test_the_arguments_change_and_so_do_the_keys_that_follow_from_them():
    job, other = enqueue(editing.keyed, "7"), enqueue(editing.keyed, "9")
    assert change(job, args=["8", "new"]) == []
    row = fresh(job)
    assert (row.args, row.concurrency_key, row.concurrency_limit, row.slots) == (
        ["8", "new"],
        "account:8",
        5,
        1,
    )
    twin = fresh(enqueue(editing.keyed, "8", "new"))
    assert twin.pk == row.pk, "a call with the same arguments finds it by its key"
    assert fresh(other).args == ["9"]


def test_arguments_whose_unique_key_another_job_has_are_refused():
    job, other = enqueue(editing.keyed, "7"), enqueue(editing.keyed, "9")
    with pytest.raises(EditError, match=f"Another job has the unique key of these arguments: {other.pk}"):
        change(job, args=["9"], priority=5)
    assert fresh(job).args == ["7"]
    assert fresh(job).priority == 0


def test_a_unique_key_whose_period_is_over_is_free():
    job, other = enqueue(editing.keyed, "7"), enqueue(editing.keyed, "9")
    Job.objects.filter(pk=other.pk).update(unique_until=timezone.now() - HOUR)
    change(job, args=["9"])
    assert fresh(job).args == ["9"]
    assert fresh(other).unique_key is None


def test_a_key_that_was_chosen_for_the_job_alone_stays():
    job = enqueue(editing.keyed.using(idempotency_key="invoice 5"), "7")
    assert change(job, args=["8"]) == ["Its unique key was chosen for this job alone and stays."]
    assert fresh(job).unique_key == job.unique_key
    assert fresh(job).concurrency_key == "account:8"


def test_a_limit_that_was_chosen_for_the_job_alone_stays():
    job = enqueue(editing.keyed.using(concurrency_limit=2), "7")
    change(job, args=["8"])
    assert (fresh(job).concurrency_key, fresh(job).concurrency_limit) == ("account:8", 2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"args": []}, "missing a required argument"),
        ({"args": {"number": 1}}, "must be a list and an object"),
        ({"kwargs": []}, "must be a list and an object"),
        ({"args": ["a\x00"]}, "NUL"),
        ({"queue": "nowhere"}, "'nowhere'"),
        ({"queue": ""}, "queue_name must be a str of 1 to 64 characters"),
    ],
)
def test_what_enqueue_would_refuse_is_refused(changes, says, settings):
    settings.TASKS = {
        "default": {"BACKEND": "pgonly_django.tasks.PostgresBackend", "QUEUES": ["default", "ai"]}
    }
    job = enqueue(editing.plain, 1)
    with pytest.raises(EditError, match=says):
        change(job, **changes)
    assert fresh(job).args == [1]
    assert fresh(job).queue == "default"


def test_the_arguments_of_a_task_that_is_gone_cannot_change_but_its_priority_can():
    job = make(task="shop.gone", args=[1])
    with pytest.raises(EditError, match=r"Cannot import the task shop\.gone"):
        change(job, args=[2])
    change(job, priority=50)
    assert fresh(job).priority == 50


def test_arguments_that_do_not_fit_any_more_can_be_mended():
    job = make(task="tests.jobs.editing.plain", args=[1, 2, 3, 4])
    change(job, args=[1])
    assert fresh(job).args == [1]


def test_with_keys_made_of_arguments_that_do_not_fit_the_edit_is_refused():
    job = make(task="tests.jobs.editing.keyed", args=[1, 2, 3, 4], unique_key="x")
    with pytest.raises(EditError, match="Its keys were made of its present arguments"):
        change(job, args=[1])


def test_a_new_time_in_the_future_schedules_a_ready_job():
    job = enqueue(editing.plain, 1)
    later = timezone.now() + HOUR
    change(job, run_at=later)
    assert (fresh(job).state, fresh(job).run_at) == (State.SCHEDULED, later)


@pytest.mark.parametrize("run_at", [None, timezone.now() - HOUR])
def test_without_a_time_or_with_a_past_one_a_scheduled_job_is_ready_now(run_at):
    job = make(state=State.SCHEDULED, run_at=timezone.now() + HOUR, ready_at=timezone.now() - HOUR)
    change(job, run_at=run_at)
    row = fresh(job)
    assert (row.state, row.run_at) == (State.READY, run_at)
    assert row.ready_at > timezone.now() - HOUR / 2, "it begins to wait now"


def test_a_held_job_stays_held_whatever_its_time():
    job = make(state=State.HELD, held_by="a person", args=[1])
    later = timezone.now() + HOUR
    change(job, run_at=later, queue="ai")
    assert (fresh(job).state, fresh(job).run_at, fresh(job).queue) == (State.HELD, later, "ai")


def test_a_job_that_moves_keeps_the_time_since_when_it_waits():
    job = make(task="tests.jobs.editing.plain", args=[1], ready_at=timezone.now() - HOUR)
    change(job, queue="ai", priority=7)
    assert (fresh(job).queue, fresh(job).priority, fresh(job).ready_at) == ("ai", 7, job.ready_at)


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_a_job_that_does_not_wait_is_not_changed(state):
    job = make_running(state=state, task="tests.jobs.editing.plain", args=[1])
    with pytest.raises(EditError, match="does not wait any more: "):
        change(job, priority=5)
    assert fresh(job).priority == 0


@pytest.mark.parametrize(
    "meanwhile", [{"priority": 1}, {"queue": "x"}, {"lease_epoch": 1}, {"args": [2]}, {"kwargs": {"flag": True}},
                  {"run_at": timezone.now()}, {"state": State.HELD}]
)  # fmt: skip
def test_what_has_changed_since_the_person_saw_it_is_not_changed(meanwhile):
    job = enqueue(editing.plain, 1)
    Job.objects.update(**meanwhile)
    with pytest.raises(EditError, match="was changed since this page was made"):
        change(job, version_of(job), args=[5])
    assert fresh(job).args != [5]


def test_a_job_that_was_deleted_is_said_to_be_gone():
    job = enqueue(editing.plain, 1)
    Job.objects.all().delete()
    with pytest.raises(EditError, match="does not exist any more"):
        change(job, priority=5)


def test_of_two_edits_at_once_the_second_is_refused():
    job = enqueue(editing.plain, 1)
    version = version_of(job)
    with ExitStack() as stack, transaction.atomic():
        change(job, version, priority=1)
        second = stack.enter_context(beside(lambda: change(job, version, priority=2)))
        time.sleep(0.3)
        assert second == [], "it waits for the row"
    assert fresh(job).priority == 1
    (error,) = second
    assert str(error) == "The job was changed since this page was made. Open the page again to edit it."


@pytest.mark.parametrize(
    ("task", "args", "changes", "payload"),
    [
        (editing.plain, [1], {"queue": "ai"}, "ready ai"),
        (editing.keyed, ["1"], {"priority": 3}, "limited default"),
        (editing.plain, [1], {"run_at": timezone.now() + HOUR}, "due"),
    ],
)
def test_workers_are_told_after_the_commit(task, args, changes, payload, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "pgonly_django.database.notify.send_coalesced", lambda _alias, text, *_: sent.append(text)
    )
    job = enqueue(task, *args)
    sent.clear()
    with transaction.atomic():
        change(job, **changes)
        assert sent == []
    assert sent == [payload]


def test_a_callable_of_the_project_that_raises_changes_nothing(monkeypatch):
    job = enqueue(editing.keyed, "7")
    monkeypatch.setattr(editing.keyed.get_backend(), "prepare_many", lambda _calls: 1 / 0)
    with pytest.raises(EditError, match="ZeroDivisionError"):
        change(job, args=["8"])
    assert fresh(job).args == ["7"]


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
        ({"args": [1, 2, 3]}, {}, "cannot be called with these arguments"),
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
