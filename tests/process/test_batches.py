"""Batches whose workers are killed at random: each callback is enqueued once, and none is lost."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from pgonly_django import Batch
from pgonly_django.models import Job, JobBatch, State
from tests.jobs import batching
from tests.waiting import wait_for

pytestmark = pytest.mark.process

BATCHES, WORKERS, KILLS = 300, 3, 12


def unfinished():
    return Job.objects.exclude(state__in=[State.SUCCEEDED, State.FAILED, State.CANCELLED])


@pytest.mark.slow
def test_each_batch_calls_back_once_while_workers_are_killed_at_random(workers, marks):
    for _ in range(WORKERS):
        workers.start("--threads", "4")
    chance = random.Random(7)
    gathering = [batching.gather.using(max_attempts=50).enqueue([1, 2, 3]) for _ in range(20)]
    for number in range(BATCHES):
        with Batch(on_success=batching.note.bind(str(number))) as batch:
            batch.enqueue_many([batching.member.bind(each, 0.03) for each in range(3)])
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.2, 0.8))
        alive = [worker for worker in workers.started if worker.process.poll() is None]
        chance.choice(alive).kill()
        workers.start("--threads", "4", ready=False)
    wait_for(lambda: not JobBatch.objects.filter(finished_at=None).exists(), 120, "all batches to finish")
    wait_for(lambda: not unfinished().exists(), 60, "all jobs to end")
    callbacks = Counter(job.args[0] for job in Job.objects.filter(task=batching.note.module_path))
    assert callbacks == Counter(str(number) for number in range(BATCHES))
    assert set(JobBatch.objects.values_list("closes", flat=True)) == {1}
    assert {result.job.state for result in gathering} == {State.SUCCEEDED}
    assert all(result.job.result == ["1", "2", "3"] for result in gathering)


@pytest.mark.slow
def test_the_end_of_a_batch_whose_last_worker_was_killed_is_found_by_another(workers, marks):
    """Killed right after the end of its last job was written: the sweep of the other one finds the batch."""
    with Batch(on_finish=batching.note.bind("over")) as batch:
        batch.enqueue(batching.member, 1)
    Job.objects.update(state=State.SUCCEEDED)
    began = time.monotonic()
    workers.start("--threads", "1")
    wait_for(lambda: marks() == ["over"], 30, "the callback")
    assert batch.row.closes == 1
    assert time.monotonic() - began < 25
