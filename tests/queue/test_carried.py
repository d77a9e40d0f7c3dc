"""What CARRIED says of each value that .using() takes is what becomes of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models import JSONField

from pgonly_django import redrive
from pgonly_django.compat import task_backends
from pgonly_django.context.context import JobContext
from pgonly_django.models import Job, State
from pgonly_django.queue.carried import CARRIED, CARRIED_COLUMNS, CARRIED_OPTIONS, JSON_CARRIED, SHOWN
from pgonly_django.queue.claim import ClaimedJob
from pgonly_django.tasks.editing import run_again
from pgonly_django.tasks.failures import send_dead_letters
from pgonly_django.tasks.result import JobResult
from tests.jobs import add
from tests.jobs.carrying import fail_with_letter

pytestmark = pytest.mark.django_db
# Two values of each option.
GIVEN = {"metadata": ({"tenant": "acme"}, {"tenant": "zenith"}), "then": (add.bind(1), add.bind(2))}
of_using = pytest.mark.parametrize("each", [each for each in CARRIED if each.option], ids=CARRIED_OPTIONS)


def with_value(task, each, number=0):
    return task.using(**{each.option: GIVEN[each.option][number]})


def stored(each, job_id):
    return Job.objects.values_list(each.column, flat=True).get(pk=job_id)


@pytest.fixture
def failed(settings):
    """Makes a failed job that carries the first value, and whose dead letter is to be sent."""
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"dead": {"task": "tests.jobs.carrying.letter"}}}
    task_backends["default"]._prepared.clear()

    def make(each):
        result = with_value(fail_with_letter, each).enqueue()
        Job.objects.filter(pk=result.id).update(state=State.FAILED)
        return result.job, stored(each, result.id)

    return make


def test_the_model_the_claim_and_what_shows_them_have_all_of_them():
    fields = {name: Job._meta.get_field(name) for name in CARRIED_COLUMNS}
    assert all(field.null for field in fields.values())
    assert tuple(name for name, field in fields.items() if isinstance(field, JSONField)) == JSON_CARRIED
    assert set(JSON_CARRIED) <= set(ClaimedJob._fields)
    for shows in (JobContext, JobResult):
        assert all(isinstance(getattr(shows, name), property) for name in SHOWN)
    assert set(GIVEN) == set(CARRIED_OPTIONS)


@of_using
def test_of_calls_that_share_a_job_one_sets_it(each):
    first, second = (with_value(add.using(unique=["a"]), each, number) for number in (0, 1))
    job = first.enqueue(1)
    value = stored(each, job.id)
    assert second.enqueue(1).id == job.id
    assert stored(each, job.id) == value
    later = timedelta(hours=1)
    job = first.using(debounce=later).enqueue(2)
    assert second.using(debounce=later).enqueue(2).id == job.id
    assert (stored(each, job.id) != value) is each.is_latest


@of_using
def test_a_retry_and_a_redrive_keep_it(each, failed):
    job, value = failed(each)
    assert redrive(Job.objects.filter(pk=job.pk)).jobs == 1
    assert stored(each, job.pk) == value
    Job.objects.filter(pk=job.pk).update(state=State.FAILED)
    assert Job.objects.filter(pk=job.pk).retry() == 1
    assert stored(each, job.pk) == value


@of_using
def test_a_job_that_is_run_again_has_it_or_not(each, failed):
    job, value = failed(each)
    again = run_again(job, queue="default", priority=0, run_at=None, args=[], kwargs={})
    assert stored(each, again.id) == (value if each.runs_again else None)


@of_using
def test_a_dead_letter_has_it_or_not(each, failed):
    _, value = failed(each)
    assert send_dead_letters("default", "dead", 10) == 1
    letter = Job.objects.get(queue="dead")
    assert stored(each, letter.pk) == (value if each.in_dead_letter else None)


@of_using
def test_a_job_that_follows_another_one_has_its_own(each):
    chain = add.using(then=with_value(add, each).bind(1))
    first = chain.enqueue(1)
    alone = with_value(add, each).enqueue(1)
    assert first.job.then_job["own"][each.column] == stored(each, alone.id)
