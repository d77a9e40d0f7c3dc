from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.database.notify import send_coalesced
from pgonly_django.models import State
from pgonly_django.worker.claiming import Promotion
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.options import WorkerOptions
from pgonly_django.worker.timers import REFUSED_SECONDS
from tests import jobs
from tests.queue.rows import fresh, lock, make
from tests.waiting import wait_for


@pytest.fixture
def promotion():
    looks = []
    database = WorkerConnection("default", uuid4(), "tests")
    promotion = Promotion(WorkerOptions(), database, lambda: looks.append(True))
    promotion.looks = looks
    return promotion


@pytest.fixture
def server(transactional_db):
    with connect("default", application_name="pgonly tests") as connection:
        yield connection


def test_it_runs_next_when_the_next_job_is_due(promotion, server):
    make(state=State.SCHEDULED, run_at=timezone.now() + timedelta(seconds=-1))
    make(state=State.SCHEDULED, run_at=timezone.now() + timedelta(seconds=0.2))
    assert promotion.ask(server) == 1
    assert promotion.due_at <= time.monotonic() + 0.2
    assert promotion.looks


def test_what_the_database_refused_is_not_asked_for_again_at_once(promotion):
    now = time.monotonic()
    assert promotion.due_at <= now
    promotion.put_off()
    assert now < promotion.due_at <= now + REFUSED_SECONDS + 1.0


def test_an_idle_worker_promotes_ever_more_seldom(promotion, server):
    promotion.hear()
    promotion.again_at = 0.0  # the second look is over as well
    pauses = []
    for _ in range(7):
        promotion.ask(server)
        pauses.append(round(promotion.due_at - time.monotonic(), 1))
    assert pauses == [0.2, 1.0, 4.0, 16.0, 30.0, 30.0, 30.0]


def test_a_due_job_that_was_locked_when_it_was_due_starts_soon_after_the_lock(background_worker, other):
    worker = background_worker(poll_seconds=600.0)
    due_at = timezone.now() + timedelta(seconds=1)
    job = make(task="tests.jobs.add", args=[1], state=State.SCHEDULED, run_at=due_at)
    with other.transaction():
        lock(other, job)
        send_coalesced("default", notify.DUE)
        wait_for(
            lambda: timezone.now() > due_at and worker.claims.promotion.due_at > time.monotonic() + 0.05,
            what="the promotion that passes it by",
        )
    wait_for(lambda: fresh(job).state == State.SUCCEEDED)


def test_a_time_that_is_past_already_starts_at_once(background_worker):
    background_worker()
    result = jobs.add.using(run_after=timezone.now() - timezone.timedelta(minutes=1)).enqueue(1)
    assert result.wait(5).return_value == 2


def test_a_due_time_announced_right_behind_another_is_kept(background_worker):
    background_worker()
    jobs.add.using(run_after=timezone.now() + timezone.timedelta(hours=1)).enqueue(1)
    soon = jobs.add.using(run_after=timezone.now() + timezone.timedelta(seconds=0.5)).enqueue(1)
    assert soon.wait(8).return_value == 2


def test_a_scheduled_job_starts_when_it_is_due(background_worker):
    background_worker()
    result = jobs.add.using(run_after=timezone.now() + timezone.timedelta(seconds=0.5)).enqueue(1)
    assert result.job.state == State.SCHEDULED
    result.wait(20)
    late = result.job.started_at - result.job.run_at
    assert timezone.timedelta(0) <= late
