from __future__ import annotations

import threading

import pytest
from django.db import connection, connections

from pgonly_django.worker.loop import WorkerLoop
from pgonly_django.worker.options import WorkerOptions
from tests.jobs import watched

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
