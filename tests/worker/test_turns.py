"""One exchange writes ends and claims at once: what goes back may come again in the same answer."""

from __future__ import annotations

from pgonly_django import enqueue_many
from pgonly_django.models import Job
from pgonly_django.models.job import State
from tests import jobs


def test_a_job_that_goes_back_may_be_claimed_again_in_the_same_exchange(work):
    enqueue_many([(jobs.fail_until, [3]) for _ in range(100)])
    worker = work(threads=2)
    assert set(Job.objects.values_list("state", "attempt")) == {(State.SUCCEEDED, 3)}
    assert worker.jobs_done == 300
    assert worker.outlived == []
