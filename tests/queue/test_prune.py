from __future__ import annotations

from datetime import timedelta

import pytest

from pgonly_django.models import Checkpoint, Job
from pgonly_django.models.checkpoint import Step
from pgonly_django.models.job import FINISHED, State
from pgonly_django.queue.prune import prune
from tests.queue.rows import HOUR, ago, make, make_running

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize("state", FINISHED)
def test_a_finished_job_leaves_after_its_retention_with_all_that_hangs_on_it(server, state):
    job = make(state=state, expires_at=ago(MINUTE))
    Checkpoint.objects.create(job=job)
    Step.objects.create(job=job, name="ask")
    assert prune(server) == 1
    assert (Job.objects.count(), Checkpoint.objects.count(), Step.objects.count()) == (0, 0, 0)


def test_what_is_not_over_or_not_yet_due_or_kept_for_ever_stays(server):
    make(state=State.SUCCEEDED, expires_at=ago(-HOUR)), make(state=State.FAILED, expires_at=None)
    make(expires_at=ago(HOUR)), make_running(expires_at=ago(HOUR))
    assert prune(server) == 0
    assert Job.objects.count() == 4


def test_one_batch_goes_at_a_time_longest_due_first(server):
    last = make(state=State.SUCCEEDED, expires_at=ago(MINUTE))
    for hours in (3, 2):
        make(state=State.SUCCEEDED, expires_at=ago(hours * HOUR))
    assert prune(server, limit=2) == 2
    assert list(Job.objects.all()) == [last]
    assert prune(server, limit=2) == 1


def test_a_locked_job_is_pruned_another_time(server, other):
    locked = make(state=State.SUCCEEDED, expires_at=ago(HOUR))
    make(state=State.SUCCEEDED, expires_at=ago(HOUR))
    server.execute("SET lock_timeout = '1s'")
    with other.transaction():
        other.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [locked.id])
        assert prune(server) == 1
    assert list(Job.objects.all()) == [locked]
