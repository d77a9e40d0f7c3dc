from __future__ import annotations

import pytest

from pgonly_django.models import Job, State
from pgonly_django.worker import timers
from tests.jobs import add
from tests.queue.rows import HOUR, ago, make
from tests.waiting import wait_for


@pytest.fixture
def seldom(monkeypatch):
    """The first pause between two looks is an hour."""
    monkeypatch.setattr(timers, "BLIND_FIRST_PAUSE_SECONDS", 3600.0)


def test_a_worker_that_polls_runs_a_ready_and_a_due_job_once_it_is_woken(background_worker, seldom):
    worker = background_worker(listen=False, poll_seconds=3600.0)
    wait_for(lambda: worker.claims.poll_timer.drained)
    due = make(state=State.SCHEDULED, run_at=ago(HOUR), task="tests.jobs.add", args=[1])
    ready = add.enqueue(2)
    worker.wake()
    wait_for(lambda: Job.objects.filter(pk__in=[due.pk, ready.id], state=State.SUCCEEDED).count() == 2)
