"""Dead letters of real workers that are killed while they fail jobs and send letters."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from pgonly_django.models import Job, State
from tests.jobs import burying
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]
QUEUES = {"dead": {"task": "tests.jobs.burying.note"}}
SETTINGS = {"TEST_PGONLY": json.dumps({"QUEUES": QUEUES})}


@pytest.fixture(autouse=True)
def dead(settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": QUEUES}


def letters():
    return Counter(args[0] for args in Job.objects.filter(queue="dead").values_list("args", flat=True))


def failed():
    return Job.objects.failed().exclude(queue="dead").count()


def test_each_failure_has_one_letter_although_the_workers_are_killed(workers, marks):
    fail = burying.fail.using(max_attempts=1)
    results = [fail.enqueue() for _ in range(60)]
    for count in (5, 20, 35):  # each is killed while it fails jobs, some of whose letters are not sent yet
        worker = workers.start("--threads", "1", **SETTINGS)
        wait_for(lambda enough=count: failed() >= enough, what="some failures")
        worker.kill()
    workers.start("--threads", "1", **SETTINGS)
    workers.start("--threads", "1", **SETTINGS)
    results.append(fail.enqueue())
    wait_for(lambda: failed() == len(results), what="all failures")
    fail.enqueue()  # whoever fails it looks for letters once more
    wait_for(lambda: len(letters()) > len(results), what="all letters")
    assert set(letters().values()) == {1}
    assert {result.id for result in results} <= set(letters())


def test_a_job_that_kills_its_worker_three_times_has_one_letter(workers, marks):
    result = burying.fail.enqueue("killed")
    for _ in range(3):
        worker = workers.start("--threads", "1", **SETTINGS)
        worker.wait()
    workers.start("--threads", "1", **SETTINGS)
    wait_for(lambda: marks() == [result.id], what="its letter")
    assert result.job.state == State.FAILED
    assert letters() == {result.id: 1}
