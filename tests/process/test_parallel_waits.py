"""Jobs that wait in several branches, or for the first of several keys, while workers are killed at random.
TEST_KILLS=50 kills more of them."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from pgonly_django import answer_url, send_event
from pgonly_django.models import Event, Job, State, Step, Wait
from tests.jobs import parallel_waits as jobs
from tests.waiting import wait_for

KILLS = int(os.environ.get("TEST_KILLS", "4"))
WORKERS, FLAGS = 3, ("--threads", "4")
LEASE_SECONDS = 5  # a busy machine must not take live workers for dead ones

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(600 + 30 * KILLS)]


def test_no_kill_of_a_worker_loses_an_event_of_jobs_that_wait_in_branches(workers):
    chance = random.Random(KILLS)
    for _ in range(WORKERS):
        workers.start(*FLAGS, lease=LEASE_SECONDS, ready=False)
    for number in range(KILLS):
        keys = [f"{name} {number}" for name in "abc"]
        first = jobs.first_of_wait.enqueue(keys, is_tidy=chance.random() < 0.5)
        of_keys = jobs.wait_for_first_and_then.enqueue(keys, f"after {number}")
        beside = jobs.wait_beside_steps.enqueue(f"beside {number}", 5, 0.1)
        asked = jobs.ask_two.enqueue(f"lawyer {number}", f"cfo {number}")
        events = [chance.choice(keys), *(f"{name} {number}" for name in ("after", "beside", "lawyer", "cfo"))]
        killing = threading.Timer(chance.uniform(0.0, 1.0), kill_one, [workers, chance])
        killing.start()
        for key in chance.sample(events, len(events)):
            time.sleep(chance.uniform(0.0, 0.4))
            send_event(key, key)
        killing.join()
        results = first, of_keys, beside, asked
        wait_for(
            lambda results=results: all(each.job.is_finished for each in results), 180, f"round {number}"
        )
        assert {each.job.state for each in results} == {State.SUCCEEDED}, [
            each.job.errors for each in results
        ]
        assert first.job.result == [events[0]]
        assert of_keys.job.result == [events[0], events[0], f"after {number}"]
        assert (beside.job.result, asked.job.result) == (events[2], [*events[3:]])
    assert not Wait.objects.filter(job__in=Job.objects.filter(task=jobs.ask_two.module_path)).exists()
    assert Step.objects.filter(name__startswith="draft ").count() == 5 * KILLS
    wait_for(lambda: not Event.objects.filter(is_delivered=False).exists())


def test_a_link_takes_an_answer_only_where_a_job_hears_it_whichever_worker_is_killed(workers, client):
    chance = random.Random(KILLS)
    for _ in range(WORKERS):
        workers.start(*FLAGS, lease=LEASE_SECONDS, ready=False)
    for number in range(KILLS):
        keys = [(f"old {name} {number}", f"new {name} {number}") for name in "abcd"]
        yes = {"choice": "yes", "confirmed": "yes"}
        results = [jobs.ask_anew.enqueue(*pair) for pair in keys]
        first_waits = Wait.objects.current().filter(key__startswith="old ", key__endswith=f" {number}")
        wait_for(lambda waits=first_waits: waits.count() == 4)
        killing = threading.Timer(chance.uniform(0.0, 0.5), kill_one, [workers, chance])
        killing.start()
        Job.objects.filter(pk__in=[result.id for result in results]).retry()
        for result, (old, new) in zip(results, keys, strict=True):
            wait_for(lambda key=new: Wait.objects.filter(key=key).exists(), 60)
            assert client.post(answer_url(old), {"choice": "no", "confirmed": "yes"}).status_code in (
                410,
                503,
            )
            while (answer := client.post(answer_url(new), yes)).status_code == 503:
                time.sleep(0.02)
            assert answer.status_code == 200
            wait_for(lambda result=result: result.job.is_finished, 60)
            assert (result.job.state, result.job.result) == (State.SUCCEEDED, "yes")
        killing.join()
    assert not Event.objects.filter(key__startswith="old ").exists()


def kill_one(workers, chance):
    alive = [worker for worker in workers.started if worker.process.poll() is None]
    chance.choice(alive).kill()
    workers.start(*FLAGS, lease=LEASE_SECONDS, ready=False)
