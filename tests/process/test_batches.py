"""Batches whose workers are killed at random: each callback is enqueued once, and none is lost. Without kills none is
late. TEST_BATCHES=5000 runs them for longer."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from statistics import quantiles

import pytest
from django.db.models import Max

from pgonly_django import Batch
from pgonly_django.models import Job, JobBatch, State
from pgonly_django.queue.enqueue import OF_BATCH
from tests.jobs import batching
from tests.waiting import wait_for

BATCHES = int(os.environ.get("TEST_BATCHES", "200"))
WORKERS, FLAGS = 4, ("--threads", "4")
SECONDS = 60 + BATCHES / 10  # at most, for each of two things
LATE_SECONDS = 5

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(3 * SECONDS)]


@pytest.mark.parametrize("kills", [BATCHES // 25, 0])
def test_each_batch_calls_back_once_while_workers_are_killed_at_random(workers, kills):
    gathering = [batching.gather.using(max_attempts=50).enqueue([1, 2, 3]) for _ in range(20)]
    callbacks = {name: batching.note.using(priority=1).bind(name) for name in ("on_success", "on_failure")}
    for _ in range(BATCHES):
        with Batch(**callbacks) as batch:
            batch.enqueue_many([batching.member.bind(each, 0.1) for each in range(3)])
    for _ in range(WORKERS):
        workers.start(*FLAGS, ready=False)
    killed = kill_at_random(workers, kills)
    wait_for(lambda: not JobBatch.objects.filter(finished_at=None).exists(), SECONDS, "all batches to finish")
    wait_for(lambda: not unfinished().exists(), SECONDS, "all jobs to end")
    assert called_back() == owed()
    assert set(JobBatch.objects.values_list("closes", flat=True)) == {1}
    assert {result.job.state for result in gathering} == {State.SUCCEEDED}
    assert all(result.job.result == ["1", "2", "3"] for result in gathering)
    late = lateness()
    if not kills:
        assert late[-1] < LATE_SECONDS
    p50, p99 = (quantiles(late, n=100)[at] for at in (49, 98))
    print(f"{Job.objects.count()} jobs, {killed} kills; callbacks: {p50:.2f} {p99:.2f} {late[-1]:.2f} s late")


def kill_at_random(workers, count):
    """Kills so many, and starts another one for each, while a batch is open. Returns how many were."""
    chance = random.Random(7)
    for number in range(count):
        time.sleep(chance.uniform(0.2, 0.8))
        if not JobBatch.objects.filter(finished_at=None).exists():
            return number
        alive = [worker for worker in workers.started if worker.process.poll() is None]
        chance.choice(alive).kill()
        workers.start(*FLAGS, ready=False)
    return count


def unfinished():
    return Job.objects.exclude(state__in=[State.SUCCEEDED, State.FAILED, State.CANCELLED])


def called_back():
    """The callbacks, as the batch and the name of each."""
    jobs = Job.objects.filter(task=batching.note.module_path)
    return Counter((job.enqueued_by.removeprefix(OF_BATCH), job.args[0]) for job in jobs)


def owed():
    members = Job.objects.filter(task=batching.member.module_path, enqueued_by=None)
    failed = {str(job.batch_id) for job in members if job.state != State.SUCCEEDED}
    batches = {str(job.batch_id) for job in members}
    assert len(batches) == BATCHES
    return Counter((each, "on_failure" if each in failed else "on_success") for each in batches)


def lateness():
    """The seconds between the last end in a batch and the start of its callback, in order."""
    members = Job.objects.filter(task=batching.member.module_path, enqueued_by=None)
    ends = dict(members.values_list("batch_id").annotate(Max("finished_at")))
    starts = dict(Job.objects.exclude(enqueued_by=None).values_list("enqueued_by", "started_at"))
    return sorted((starts[f"{OF_BATCH}{each}"] - end).total_seconds() for each, end in ends.items())


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
