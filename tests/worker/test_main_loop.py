"""The main loop asks on a connection of ours alone. On one of Django's it would meet errors that it takes for the end
of the process, such as that of a server which has just gone away."""

from __future__ import annotations

import threading
import time
import traceback

import pytest
from django.db.backends.signals import connection_created

from pgonly_django.models import Job, State
from pgonly_django.worker.status import WorkerState
from tests import jobs
from tests.database.test_reconnecting import no_token
from tests.jobs import ending
from tests.queue.rows import HOUR, ago, make, make_running
from tests.waiting import wait_for
from tests.worker.conftest import MAIN_LOOP
from tests.worker.test_listener import cut


@pytest.fixture
def opened():
    """For each connection of Django's that a main loop has opened: the functions that led to it."""
    found = []

    def note(**_):
        if threading.current_thread().name == MAIN_LOOP:
            found.append([frame.name for frame in traceback.extract_stack()])

    connection_created.connect(note)
    yield found
    connection_created.disconnect(note)


@pytest.mark.slow
def test_a_main_loop_opens_no_connection_of_django_once_it_has_declared_its_queues(
    settings, background_worker, opened
):
    settings.PGONLY = {
        "LEASE_SECONDS": 2,
        "QUEUES": {"few": {"max_running": 1}, "dead": {"task": "tests.jobs.burying.note"}},
    }
    worker = background_worker(threads=2)
    made = [
        jobs.add.enqueue(1, 2),
        jobs.count_to.enqueue(3),
        jobs.add_async.enqueue(1, 2),
        jobs.add.using(queue_name="few").enqueue(1, 2),
        ending.fail_until.enqueue(2),
        ending.give_up.enqueue(),
    ]
    due = make(state=State.SCHEDULED, run_at=ago(HOUR), task="tests.jobs.add", args=[1, 2])
    orphan = make_running(task="tests.jobs.add", args=[1, 2], lease_expires_at=ago(HOUR))
    asleep = jobs.sleep_in_slices.enqueue("cancelled")
    wait_for(lambda: Job.objects.get(pk=asleep.id).state == State.RUNNING)
    Job.objects.filter(pk=asleep.id).cancel()
    ids = [*[result.id for result in made], due.id, orphan.id, asleep.id]
    wait_for(lambda: not Job.objects.filter(pk__in=ids, finished_at=None).exists())
    worker.stop()
    assert worker.left.wait(10)
    assert opened
    assert [names for names in opened if "declare_queues" not in names] == []


@pytest.mark.slow
def test_a_backend_that_cannot_fetch_its_password_for_a_while_ends_no_worker(background_worker, marks):
    worker = background_worker(threads=2)
    result = jobs.sleep_in_slices.enqueue("a", 2.0)
    wait_for(marks)
    with no_token():
        cut()
        wait_for(lambda: worker.status().state is WorkerState.AWAY)
        some_tries = time.monotonic() + 1.0
        wait_for(lambda: time.monotonic() > some_tries)
        assert worker.status().state is WorkerState.AWAY
    assert result.wait(30).attempts == 1
    assert jobs.add.enqueue(1, 2).wait(30).return_value == 3
