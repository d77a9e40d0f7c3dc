"""A later call of the same job replaces its arguments, and puts it off."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Job
from pgonly_django.models.job import State
from tests.queue.rows import HOUR, ago, fresh
from tests.tasks.calls import reindex
from tests.tasks.test_uniqueness import MINUTE, is_same

pytestmark = pytest.mark.django_db


def test_a_later_call_replaces_the_arguments_and_moves_the_time():
    first = reindex.enqueue(7, reason="a")
    Job.objects.update(run_at=ago(-timedelta(seconds=5)))
    second = reindex.enqueue(7, reason="b")
    assert is_same(first, second)
    assert second.kwargs == {"reason": "b"}
    row = Job.objects.get()
    assert (row.args, row.kwargs, row.state) == ([7], {"reason": "b"}, State.SCHEDULED)
    assert MINUTE - timedelta(seconds=5) < row.run_at - timezone.now() <= MINUTE


def test_a_due_job_that_is_not_claimed_waits_again():
    first = reindex.enqueue(7)
    Job.objects.update(state=State.READY)
    assert is_same(first, reindex.enqueue(7, "b"))
    assert Job.objects.get().state == State.SCHEDULED


@pytest.mark.parametrize("state", [State.RUNNING, State.READY, State.SCHEDULED, State.FAILED, State.HELD])
def test_a_job_that_was_claimed_is_not_changed_and_another_one_is_made(state):
    first = reindex.enqueue(7, "a")
    Job.objects.update(state=state, lease_epoch=1, worker_id=first.id, lease_expires_at=ago(-HOUR))
    second = reindex.enqueue(7, "b")
    assert not is_same(first, second)
    assert [job.args for job in Job.objects.order_by("id")] == [[7, "a"], [7, "b"]]


def test_a_held_job_gets_the_new_arguments_and_stays_held():
    first = reindex.enqueue(7, "a")
    Job.objects.hold()
    assert is_same(first, reindex.enqueue(7, "b"))
    row = Job.objects.get()
    assert (row.state, row.args) == (State.HELD, [7, "b"])
    Job.objects.resume()
    assert fresh(row).state == State.SCHEDULED


def test_what_follows_from_the_arguments_follows_from_the_new_ones():
    pages = reindex.using(concurrency_key=lambda account_id, reason="": reason or None)
    for reason, expected in (("a", ("a", 1, 1)), ("b", ("b", 1, 1)), ("", (None, None, None))):
        pages.enqueue(7, reason)
        assert Job.objects.values_list("concurrency_key", "concurrency_limit", "slots").get() == expected


def test_a_job_that_excludes_for_longer_is_left_as_it_is():
    first = reindex.using(debounce=None, unique_while="retained").enqueue(7, "a")
    second = reindex.enqueue(7, "b")
    Job.objects.update(lease_epoch=1, state=State.SUCCEEDED)
    third = reindex.enqueue(7, "c")
    assert is_same(first, third)
    assert third.args == [7, second.args[1]]


def test_with_a_period_a_job_is_put_off_only_so_long():
    endless = reindex.using(unique_for=HOUR)
    first = endless.enqueue(7)
    Job.objects.update(unique_until=ago(timedelta(seconds=1)))
    assert not is_same(first, endless.enqueue(7))


def test_a_debounced_job_waits_for_its_own_time_too():
    later = timezone.now() + HOUR
    reindex.using(run_after=later).enqueue(7)
    assert Job.objects.get().run_at == later
