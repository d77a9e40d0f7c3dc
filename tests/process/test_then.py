"""Chains of jobs whose workers are killed at random: each job is followed once."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from pgonly_django import RESULT
from pgonly_django.models import Job, State
from tests.jobs import chained
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]

CHAINS, KILLS = 150, 8


def test_each_job_is_followed_once_while_workers_are_killed_at_random(workers):
    for _ in range(2):
        workers.start("--threads", "4")
    chance = random.Random(11)
    last = chained.keep.using(max_attempts=50).bind(RESULT)
    loads = (chained.load, chained.load_async, chained.load_atomically)
    for number in range(CHAINS):
        middle = chained.keep.using(max_attempts=50, then=last).bind(RESULT, number)
        loads[number % 3].using(max_attempts=50, then=middle).enqueue(number)
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.1, 0.5))
        alive = [worker for worker in workers.started if worker.process.poll() is None]
        chance.choice(alive).kill()
        workers.start("--threads", "4", ready=False)
    ended = Job.objects.filter(state__in=[State.SUCCEEDED, State.FAILED])
    wait_for(lambda: ended.count() == 3 * CHAINS, 120, "all jobs to end")
    assert set(Job.objects.values_list("state", flat=True)) == {State.SUCCEEDED}
    followed = Counter(Job.objects.filter(enqueued_by__isnull=False).values_list("enqueued_by", flat=True))
    assert set(followed.values()) == {1}
    assert len(followed) == 2 * CHAINS
    ends = [job.result[0][0] for job in Job.objects.filter(then_job__isnull=True)]
    assert sorted(end[0][1] for end in ends) == list(range(CHAINS))
