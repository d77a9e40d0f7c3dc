"""Loops over rows, in workers that are stopped and killed in the middle."""

from __future__ import annotations

import signal

import pytest
from django.contrib.auth.models import User

from pgonly_django.models import Checkpoint, Job
from tests.jobs import looping
from tests.waiting import wait_for

pytestmark = pytest.mark.process
USERS = 100


@pytest.mark.parametrize("body", looping.BODIES)
@pytest.mark.parametrize("ends_with", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_loop_over_rows_that_it_changes_visits_each_of_them(workers, marks, body, ends_with):
    names = [f"user {number}" for number in range(USERS)]
    User.objects.bulk_create(User(username=name) for name in names)
    result = looping.visit_users.enqueue(body)
    worker = workers.start()
    wait_for(
        lambda: Checkpoint.objects.filter(job=result.id).exists() and len(marks()) > 55, what="the middle"
    )
    worker.send(ends_with)
    worker.wait()
    workers.start()
    wait_for(lambda: looping.visit_users.get_result(result.id).is_finished, what="the end")
    assert set(marks()) == set(names)
    progress = Job.objects.get(pk=result.id).progress
    assert progress["done"] == progress["total"]
    if ends_with == signal.SIGTERM:  # a kill loses the positions of up to a second
        assert len(marks()) == progress["total"] == USERS
