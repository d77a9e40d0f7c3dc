from __future__ import annotations

import json

import pytest

from pgonly_django.models import Job, Worker
from tests import activity, jobs
from tests.children import database_url
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]
LISTENERS = "application_name LIKE 'pgonly listener %'"


def test_behind_a_pooler_the_worker_says_so_once_and_polls(workers, marks, pooler):
    workers.url = database_url(HOST="127.0.0.1", PORT=pooler)
    worker = workers.start("--threads", "3")
    wait_for(lambda: "LISTEN does not work here" in worker.output, what="the self-test")
    results = [jobs.add.enqueue(i, 1) for i in range(60)]
    assert [result.wait(30).return_value for result in results] == [i + 1 for i in range(60)]
    long_one = jobs.sleep_in_slices.enqueue("k")
    wait_for(lambda: "k:started" in marks(), what="the start")
    long_one.cancel()
    assert long_one.wait(15).job.state == "cancelled"
    assert worker.output.count("LISTEN does not work here") == 1
    assert "ERROR" not in worker.output
    worker.send(15)
    assert worker.wait() == 0


@pytest.fixture
def past_the_pooler(workers, pooler):
    """How to start workers whose statements go through PgBouncer, and which LISTEN past it."""
    environment = {
        "TEST_DATABASES": json.dumps({"direct": workers.url}),
        "TEST_PGONLY": json.dumps({"LISTEN_DATABASE": "direct"}),
    }
    workers.url = database_url(HOST="127.0.0.1", PORT=pooler)
    yield environment
    workers.end()  # PgBouncer waits for its clients


def listening():
    return activity.pids(LISTENERS)


def test_with_a_listen_database_workers_behind_a_pooler_rescue(workers, marks, past_the_pooler):
    idle = workers.start("--queues", "default", **past_the_pooler)
    dying = workers.start("--queues", "dying", **past_the_pooler)
    wait_for(lambda: Worker.objects.count() == 2)
    result = jobs.sleep_in_slices.using(queue_name="dying").enqueue("k", 30.0)
    wait_for(lambda: "k:started" in marks(), what="the start")
    dying.kill()
    wait_for(lambda: Job.objects.get(pk=result.id).crashes == 1, what="the rescue")
    assert "LISTEN does not work" not in idle.output
    assert "ERROR" not in idle.output


def test_a_worker_whose_listening_connection_is_lost_polls_until_it_is_back(workers, past_the_pooler):
    worker = workers.start("--poll-seconds", "0.2", **past_the_pooler)
    wait_for(listening)
    assert activity.end(LISTENERS) == 1
    assert jobs.add.enqueue(1, 2).wait(20).return_value == 3
    wait_for(listening)
    assert "Polling until the connection that listens is open again" in worker.output
