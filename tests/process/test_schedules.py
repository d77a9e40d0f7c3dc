from __future__ import annotations

import random
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Job, Schedule, State
from tests.scheduling.rows import make, ticks
from tests.waiting import wait_for

pytestmark = pytest.mark.process
EVERY, TICKS = timedelta(seconds=0.2), 200


def test_two_schedulers_that_are_killed_at_random_run_every_tick_once(workers, marks):
    """200 ticks: 200 jobs, one for each time, and each has had its effect once."""
    begin = timezone.now() + timedelta(seconds=1)
    schedule = make(
        "ticking",
        task="tests.scheduling.tasks.mark_atomically",
        args=["tick"],
        every_seconds=EVERY.total_seconds(),
        next_at=begin,
        catch_up="all",
        overlap="allow",
    )
    two, chance = [workers.start(), workers.start()], random.Random(20261126)
    kills = 0
    while Job.objects.count() < TICKS:
        time.sleep(chance.uniform(0.0, 1.5))  # the moment of the kill, not a wait for anything
        place = chance.randrange(2)
        two[place].kill()
        kills += 1
        two[place] = workers.start(ready=chance.random() < 0.5)
    Schedule.objects.all().pause()
    wait_for(lambda: not Job.objects.exclude(state=State.SUCCEEDED).exists(), 60, "all jobs to succeed")
    times = sorted(Job.objects.values_list("run_at", flat=True))
    assert kills >= 10
    assert len(times) >= TICKS
    assert times == [begin + EVERY * place for place in range(len(times))]
    assert marks() == ["tick"] * len(times)
    assert [tick.tick_at for tick in ticks(schedule)] == times[-len(ticks(schedule)) :]
