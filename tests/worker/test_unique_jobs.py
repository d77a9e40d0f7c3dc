"""Unique jobs with a worker that runs them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgonly_django.models import Job
from pgonly_django.models.job import State
from tests.jobs import mark_once
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)
SOON = timedelta(seconds=0.5)


def test_calls_in_close_succession_run_once_with_the_last_arguments_when_they_have_ceased(
    background_worker, marks
):
    background_worker(poll_seconds=30.0)  # so it is the notifications that tell it
    debounced = mark_once.using(unique=[], debounce=SOON)
    calls = [debounced.enqueue(f"call {number}") for number in range(5)]
    assert [call.is_duplicate for call in calls] == [False, True, True, True, True]
    calls[0].wait(10)
    assert marks() == ["call 4"]
    row = Job.objects.get()
    assert timedelta(0) <= row.started_at - row.run_at < timedelta(seconds=5)


def test_a_caller_can_wait_for_the_job_of_another(background_worker, marks):
    unique = mark_once.using(unique=True)
    first, second = unique.enqueue("once"), unique.enqueue("once")
    background_worker()
    assert second.wait(10).id == first.id
    wait_for(lambda: Job.objects.get().state == State.SUCCEEDED)
    assert marks() == ["once"]
