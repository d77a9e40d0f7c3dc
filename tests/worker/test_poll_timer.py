from __future__ import annotations

import time

import pytest

from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.database.notify import send_coalesced
from pgonly_django.models import Job, State
from pgonly_django.queue.claim import Claim
from pgonly_django.worker.listener import JobsListener
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.poll_timer import REFUSED_SECONDS, PollTimer
from tests.queue.rows import claimer as make_claimer
from tests.queue.rows import make
from tests.waiting import wait_for


def test_what_the_database_refused_is_not_asked_for_again_at_once():
    poll_timer = PollTimer(WorkerOptions(), JobsListener("default", listens=True))
    now = time.monotonic()
    assert poll_timer.next_look(has_slot=True) <= now
    poll_timer.put_off()
    assert now < poll_timer.next_look(has_slot=True) <= now + REFUSED_SECONDS + 1.0


@pytest.fixture
def view(transactional_db):
    """The connection of a view that takes its time."""
    with connect("default", application_name="a view") as connection:
        yield connection


def lock(view, job):
    view.execute("SELECT FROM pgonly_job WHERE id = %s FOR UPDATE", [job.pk])


def is_over(job):
    return Job.objects.get(pk=job.pk).state == State.SUCCEEDED


def test_a_ready_job_that_was_locked_when_it_was_looked_for_starts_soon_after_the_lock(
    background_worker, view
):
    worker = background_worker(poll_seconds=600.0)
    poll_timer = worker.poll_timer
    wait_for(lambda: poll_timer.drained)
    with view.transaction():
        job = make(task="tests.jobs.add", args=[1])
        lock(view, job)
        poll_timer.drained = False
        send_coalesced("default", notify.ready("default"))
        wait_for(lambda: poll_timer.drained and poll_timer.next_look(has_slot=True) > time.monotonic() + 0.05)
    wait_for(lambda: is_over(job))


def test_an_idle_worker_looks_ever_more_seldom():
    poll_timer, claimer = PollTimer(WorkerOptions(), JobsListener("default", listens=True)), make_claimer()
    poll_timer.hear_ready()
    pauses = []
    for _ in range(6):
        poll_timer.looked([], Claim(1, {}, take_suspect=False), claimer, began=time.monotonic() + 1)
        pauses.append(round(poll_timer.next_look(has_slot=True) - time.monotonic(), 1))
    assert pauses == [0.2, 1.0, 4.0, 16.0, 30.0, 30.0]
