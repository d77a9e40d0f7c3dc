from __future__ import annotations

import contextlib
import logging
import threading
from functools import partial

import pytest
from django.db import connection, connections

from pgonly_django.context.run import Run
from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from tests.jobs import watched
from tests.queue.rows import claim, claimer, make

MAIN_LOOP = "main loop"  # the thread of a background_worker


@pytest.fixture
def work(transactional_db):
    """Run a real worker in this process until no job is ready: `work(threads=2, ...)`. Returns the worker."""

    def run(**options):
        worker = WorkerLoop(WorkerOptions(**{"burst": True, "threads": 4, "grace_seconds": 1.0, **options}))
        worker.code = worker.run()
        return worker

    yield run
    connections.close_all()


def _enqueued(run, task, *args, **kwargs):
    result = task.enqueue(*args, **kwargs)
    run()
    return result


@pytest.fixture
def ran(run_jobs):
    """Enqueue a job, run what is ready, and return the job's result: `ran(task, *args, **kwargs)`."""
    return partial(_enqueued, run_jobs)


@pytest.fixture
def worked(work):
    """The same with a real worker, of one thread."""
    return partial(_enqueued, partial(work, threads=1))


@pytest.fixture
def run_of(server):
    """Make a job and claim it: `run_of(task, *args)`."""

    def make_run(task, *args):
        make(task=task.module_path, args=args)
        (job,) = claim(server, claimer())
        return Run(job, "default", claimed_at=0.0, lease_until=float("inf"))

    return make_run


@pytest.fixture
def receive():
    """Connect a receiver for one test: `receive(signal, receiver)`."""
    with contextlib.ExitStack() as stack:

        def connect(signal, receiver):
            signal.connect(receiver)
            stack.callback(signal.disconnect, receiver)

        yield connect


@pytest.fixture
def events(caplog):
    """The records of events that the log has, from INFO on: `events("worker.job_ended", ...)`."""
    caplog.set_level(logging.INFO, "pgonly_django.worker")
    return lambda *names: [record for record in caplog.records if getattr(record, "event", "") in names]


@pytest.fixture
def background_worker(transactional_db):
    """Start a real worker in a thread of this process; it is stopped at the end of the test."""
    started = []

    def start(**options):
        worker = WorkerLoop(WorkerOptions(**{"threads": 4, "grace_seconds": 1.0, **options}))
        thread = threading.Thread(target=worker.run, name=MAIN_LOOP, daemon=True)
        thread.start()
        started.append((worker, thread))
        assert worker.ready.wait(10)
        return worker

    yield start
    for worker, thread in started:
        worker.stop_now()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def stay_at_first(background_worker):
    """The task. Its first run, which no worker waits for, ends with the test."""
    watched.over = threading.Event()
    yield watched.stay_at_first
    watched.over.set()


@pytest.fixture
def pooled():
    """Django's own pool below the default connection, of three places."""
    connection.close()
    options = connection.settings_dict["OPTIONS"]
    pool = {"min_size": 1, "max_size": 3, "timeout": 4}
    connection.settings_dict["OPTIONS"] = {**options, "pool": pool}
    yield
    connection.close()
    connection.close_pool()
    connection.settings_dict["OPTIONS"] = options
