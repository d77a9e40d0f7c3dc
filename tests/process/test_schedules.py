from __future__ import annotations

import json
import random
import signal
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Job, Schedule, State, Worker
from tests.scheduling.rows import clock, make, ticks
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]
EVERY, TICKS, KILLS = timedelta(seconds=0.1), 100, 10


def test_two_schedulers_that_are_killed_at_random_run_every_tick_once(workers, marks):
    """100 ticks and more: as many jobs, one for each time, and each has had its effect once."""
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
    while Job.objects.count() < TICKS or kills < KILLS:
        time.sleep(chance.uniform(0.0, 1.0))  # the moment of the kill, not a wait for anything
        place = chance.randrange(2)
        two[place].kill()
        kills += 1
        two[place] = workers.start(ready=chance.random() < 0.5)
    Schedule.objects.all().pause()
    wait_for(lambda: not Job.objects.exclude(state=State.SUCCEEDED).exists(), 60, "all jobs to succeed")
    times = sorted(Job.objects.values_list("run_at", flat=True))
    assert len(times) >= TICKS
    assert times == [begin + EVERY * place for place in range(len(times))]
    assert marks() == ["tick"] * len(times)
    assert [tick.tick_at for tick in ticks(schedule)] == times[-len(ticks(schedule)) :]


def often(number):
    return {"task": "tests.jobs.add", "every": 0.3, "args": [number]}


OLD = {"old": often(1), "both": often(2)}
NEW = {"both": often(2), "new": often(3)}


def deploy(workers, schedules):
    return workers.start(TEST_PGONLY=json.dumps({"SCHEDULES": schedules}))


def names():
    return set(Schedule.objects.values_list("name", flat=True))


def wait_for_more_ticks(*schedules):
    """Each of them enqueues two more jobs."""
    since = clock()
    for name in schedules:
        rows = Schedule(name=name).ticks.filter(tick_at__gt=since)
        wait_for(lambda rows=rows: rows.count() >= 2, what=f"ticks of {name}")


def test_two_versions_run_side_by_side_each_with_its_own_schedules(workers):
    """A rolling deploy: old, then both, then new; and back again."""
    old = deploy(workers, OLD)
    wait_for_more_ticks("old", "both")
    new = deploy(workers, NEW)
    wait_for_more_ticks("old", "both", "new")
    Schedule.objects.filter(name="both").edit(every_seconds=0.25)
    old.send(signal.SIGTERM)
    assert old.wait() == 0
    wait_for_more_ticks("both", "new")
    stopped_at = Worker.objects.get(name=old.name).stopped_at
    assert not Schedule(name="old").ticks.filter(tick_at__gt=stopped_at).exists()
    new.send(signal.SIGTERM)
    assert new.wait() == 0
    deploy(workers, NEW)
    wait_for(lambda: names() == {"both", "new"}, what="the removed schedule to disappear")
    wait_for_more_ticks("both", "new")
    both = Schedule.objects.get(name="both")
    assert both.every_seconds == 0.25  # the edit outlived three deploys


def test_a_tick_that_comes_while_the_database_restarts_runs_afterwards(own_server, workers):
    own_server.execute(
        "INSERT INTO pgonly_schedule (name, task, args, kwargs, timezone, every_seconds, catch_up, overlap, next_at) "
        "VALUES ('ticking', 'tests.jobs.add', '[1]', '{}', 'UTC', 0.2, 'all', 'allow', clock_timestamp())"
    )
    workers.start(ready=False, DATABASE_URL=own_server.url())
    wait_for(lambda: own_server.count("succeeded") >= 3, what="the first ticks")
    own_server.restart("immediate")
    before = own_server.count()
    wait_for(lambda: own_server.count("succeeded") >= before + 10, what="ticks after the restart")
    gaps = own_server.execute(
        "SELECT DISTINCT round(extract(epoch FROM run_at - lag(run_at) OVER (ORDER BY run_at))::numeric, 3)::text "
        "FROM pgonly_job"
    )
    assert {gap for (gap,) in gaps} == {None, "0.200"}
