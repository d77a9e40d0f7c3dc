from __future__ import annotations

from uuid import uuid4

import pytest

from pgonly_django.conf import LONGEST
from pgonly_django.database import notify
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.queue import promote as module
from pgonly_django.queue.liveness import fall_asleep
from pgonly_django.queue.promote import count_waiting, promote
from tests.queue.rows import HOUR, MINUTE, ago, fresh, heard, make, while_locked


def scheduled(run_at, **facts):
    return make(state=State.SCHEDULED, run_at=run_at, ready_at=ago(HOUR), **facts)


def test_due_jobs_become_ready_now_and_the_next_due_time_is_told(server):
    due, later = scheduled(ago(MINUTE)), scheduled(ago(-MINUTE))
    count, next_due, _ = promote(server)
    assert (count, fresh(due).state, fresh(later).state) == (1, State.READY, State.SCHEDULED)
    assert fresh(due).ready_at > ago(MINUTE)
    assert 50 < next_due <= 60


def test_a_job_that_has_kept_its_place_gets_it_back(server):
    place = ago(2 * HOUR)
    kept = scheduled(ago(MINUTE), attempted_at=ago(HOUR), id=uuid4())
    Job.objects.filter(pk=kept.pk).update(ready_at=place)
    moved_back = scheduled(ago(MINUTE), attempted_at=ago(2 * HOUR))
    assert promote(server).jobs == 2
    assert fresh(kept).ready_at == place
    assert fresh(kept).waiting_since > ago(MINUTE)
    assert fresh(moved_back).ready_at > ago(MINUTE)


def test_nothing_scheduled_means_no_next_time(server):
    make()
    assert promote(server) == (0, None, False)


def test_a_job_that_waits_without_a_deadline_is_never_due(server):
    scheduled(ago(-LONGEST + HOUR))
    assert promote(server).next_due_in_seconds is None
    assert fall_asleep(server, uuid4()).next_due_in_seconds is None
    assert count_waiting("default") == (0, None)


def test_a_job_that_another_promoter_holds_is_left_to_it(server, other):
    locked, free = scheduled(ago(MINUTE)), scheduled(ago(MINUTE))
    with while_locked(locked, other, server):
        assert promote(server)[0] == 1
    assert (fresh(locked).state, fresh(free).state) == (State.SCHEDULED, State.READY)


def test_the_queues_of_promoted_jobs_are_woken_once_each(server, other):
    for queue in ("a", "a", "b"):
        scheduled(ago(MINUTE), queue=queue)
    for key in ("x", "y"):
        scheduled(ago(MINUTE), queue="a", slots=1, concurrency_key=key, concurrency_limit=1)
    other.execute(f"LISTEN {notify.CHANNEL}")
    promote(server)
    assert heard(other) == ["limited a", "ready a", "ready b"]


def test_a_full_batch_says_that_there_may_be_more(server):
    Job.objects.bulk_create(
        [Job(task="t", state=State.SCHEDULED, run_at=ago(MINUTE)) for _ in range(module.BATCH + 1)]
    )
    assert promote(server) == (module.BATCH, 0.0, False)
    assert promote(server) == (1, None, False)


@pytest.mark.parametrize("state", [State.READY, State.RUNNING, State.SUCCEEDED, State.CANCELLED])
def test_other_states_stay_what_they_are(server, state):
    job = make(state=state, run_at=ago(HOUR), worker_id="00000000-0000-7000-8000-000000000000",
               lease_expires_at=ago(HOUR))  # fmt: skip
    assert promote(server) == (0, None, False)
    assert fresh(job).state == state
