"""One exchange writes ends and claims at once: what goes back may come again in the same answer."""

from __future__ import annotations

from pgonly_django import enqueue_many
from pgonly_django.models import Job
from pgonly_django.models.job import State
from pgonly_django.queue.claim import Claim
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.worker import WorkerLoop
from tests import jobs
from tests.jobs import ending


def test_a_job_that_goes_back_may_be_claimed_again_in_the_same_exchange(work):
    enqueue_many([(ending.fail_until, [3]) for _ in range(100)])
    worker = work(threads=2)
    assert set(Job.objects.values_list("state", "attempt")) == {(State.SUCCEEDED, 3)}
    assert worker.jobs_done == 300
    assert worker.in_flight.superseded == []


def test_what_was_passed_over_for_want_of_a_slot_is_looked_for_when_one_is_free(transactional_db):
    """A claim ahead, of short jobs while all slots are taken, says nothing about the other queues."""
    jobs.add.using(queue_name="others").enqueue(1)
    worker = WorkerLoop(WorkerOptions(threads=1))
    ahead = Claim(free_slots=0, prefetch_limits={"short": 5}, take_suspect=True)
    answer = worker.exchanger.exchange([], [], ahead)
    assert answer.jobs == []
    worker.poll_timer.looked(answer.jobs, ahead, worker.claimer, began=0.0)
    assert not worker.poll_timer.drained
    assert worker.poll_timer.next_look(has_slot=False) > 0.1
    assert worker.poll_timer.next_look(has_slot=True) <= 0.1
    worker.database.close()
