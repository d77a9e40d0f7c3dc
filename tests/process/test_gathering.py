"""Jobs that gather, through many levels, and are cancelled while workers are killed at random. TEST_KILLS=50 kills more
of them."""

from __future__ import annotations

import os
import random
import threading
import time
from statistics import median

import pytest

from pgonly_django.models import Job, JobBatch, State
from pgonly_django.models.job import FINISHED
from tests.jobs import batching
from tests.waiting import wait_for

KILLS = int(os.environ.get("TEST_KILLS", "8"))
WORKERS = 3
FLAGS = ("--threads", "4")
AT_MOST_SECONDS = 16

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(300 + 30 * KILLS)]


def leaves():
    return Job.objects.filter(task=batching.stay.module_path)


def unfinished():
    return Job.objects.waiting().count() + Job.objects.running().count()


@pytest.mark.parametrize("levels", [1, 4, 8])
@pytest.mark.parametrize("verb", ["cancel", "discard"])
def test_the_end_of_a_job_that_gathers_reaches_all_levels_at_once(workers, levels, verb):
    workers.start("--threads", "2")
    result = batching.gather_levels.enqueue(levels)
    wait_for(
        lambda: leaves().running().exists() and result.job.state == State.SCHEDULED, 30, "the leaf to run"
    )
    began = time.monotonic()
    assert getattr(Job.objects.filter(pk=result.id), verb)() == 1
    wait_for(lambda: not unfinished(), 120, "all levels to end")
    took = time.monotonic() - began
    print(f"{verb}, {levels} levels: {took:.1f} s")
    assert took < AT_MOST_SECONDS
    assert {leaf.state for leaf in leaves()} == {State.CANCELLED}


def until_all_were_asked():
    """Waits until all jobs have ended. Returns when the last of them was asked, which might have worked until then."""
    goes_on, seen = (
        Job.objects.exclude(state__in=FINISHED).filter(cancel_requested_at=None),
        [time.monotonic()],
    )

    def have_ended():
        if goes_on.exists():
            seen.append(time.monotonic())
        return not unfinished()

    wait_for(have_ended, 120, "all jobs to end")
    return seen[-1]


@pytest.mark.parametrize("width", [1, 2])
def test_no_kill_of_a_worker_keeps_a_level_from_being_cancelled(workers, width):
    """The jobs are still being gathered when the one at the top is cancelled or discarded."""
    chance, took = random.Random(width), []
    for _ in range(WORKERS):
        workers.start(*FLAGS, ready=False)
    for _ in range(KILLS // 2):
        roots = [batching.gather_levels.enqueue(chance.randint(1, 8 // width), width).id for _ in range(3)]
        time.sleep(chance.uniform(0.0, 1.5))
        killing = threading.Timer(chance.uniform(0.0, 0.1), kill_one, [workers, chance])
        killing.start()
        began = time.monotonic()
        for root in roots:
            one = Job.objects.filter(pk=root)
            assert (chance.random() < 0.5 and one.discard()) or one.cancel()
        took.append(until_all_were_asked() - began)
        killing.join()
        wait_for(lambda: not JobBatch.objects.filter(finished_at=None).exists(), 30, "all batches to end")
    assert not Job.objects.filter(state=State.SUCCEEDED).exists()
    assert max(took) < AT_MOST_SECONDS
    print(f"{KILLS // 2} kills: all levels were asked after {median(took):.2f} s, at most {max(took):.2f} s")


def kill_one(workers, chance):
    alive = [worker for worker in workers.started if worker.process.poll() is None]
    chance.choice(alive).kill()
    workers.start(*FLAGS, ready=False)
