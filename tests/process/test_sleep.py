"""Real `runworker` processes that sleep, and are woken over HTTP."""

from __future__ import annotations

import signal

import pytest

from pgonly_django.database import wake_urls
from pgonly_django.models import Job, Worker
from tests import jobs
from tests.activity import backends, pids
from tests.http_receiver import receiver
from tests.process.test_health import ask
from tests.waiting import wait_for
from tests.worker.health.test_server import free_port

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture
def before(transactional_db):
    """The connections of the tests themselves."""
    return pids()


def states(port):
    return ask(port, "/ready")[1]["workers"]


@pytest.fixture
def wakes(settings):
    """The port of a worker whose address is a wake URL of this test's process."""
    port = free_port()
    settings.PGONLY = {**settings.PGONLY, "WAKE_URLS": [f"http://127.0.0.1:{port}/wake"]}
    yield port
    wake_urls.flush()


def test_asleep_no_connection_is_left_and_an_enqueue_wakes_it(before, workers, wakes, marks):
    """With persistent connections, which the threads of jobs keep open."""
    worker = workers.start("--health-port", str(wakes), "--sleep-after", "1", TEST_CONN_MAX_AGE="600")
    result = jobs.mark_once.enqueue("first")
    wait_for(lambda: states(wakes) == {"asleep": 1}, what="sleep")
    assert result.job.is_finished
    wait_for(lambda: not backends(before), what="its connections to close")
    assert Worker.objects.get(name=worker.name).sleeping_since is not None
    assert "nothing tells this worker of new jobs" in worker.output  # the worker's settings have no WAKE_URLS
    second = jobs.mark_once.enqueue("second")
    wait_for(lambda: second.job.is_finished, what="the second job")
    assert marks() == ["first", "second"]


def test_a_worker_that_gives_a_job_back_at_its_stop_wakes_others_before_it_ends(workers, marks):
    with receiver() as sleeping:
        worker = workers.start("--grace-seconds", "0.5", TEST_WAKE_URLS=sleeping.url)
        jobs.hold_on.enqueue("k")
        wait_for(lambda: "k:started" in marks())
        assert sleeping.asked == []
        worker.send(signal.SIGTERM)
        assert worker.wait(10) == 0
        assert wake_urls.is_valid(sleeping.asked[0].bearer)


def test_a_supervisor_passes_the_wake_up_on_to_all_its_processes(before, workers, wakes):
    flags = ("--processes", "2", "--threads", "1", "--health-port", str(wakes), "--sleep-after", "1")
    workers.start(*flags, ready=False)
    wait_for(lambda: ask(wakes, "/ready") and states(wakes) == {"asleep": 2}, what="both to sleep")
    wait_for(lambda: not backends(before), what="all connections to close")
    for _ in range(2):
        jobs.pause.enqueue(5)
    running = Job.objects.running().values("worker_id").distinct()
    wait_for(lambda: running.count() == 2, what="a job in each of them")
