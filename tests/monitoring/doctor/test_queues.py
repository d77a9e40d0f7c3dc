"""Queues without a worker, and those in which jobs wait long."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Queue
from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import found
from tests.queue.rows import HOUR, ago, make, make_worker

pytestmark = pytest.mark.django_db


def test_a_queue_that_no_live_worker_serves():
    make_worker(queues=["mail"])
    make(queue="ai", ready_at=ago(timedelta(minutes=1)))
    make(queue="mail")
    findings = found("queues")
    assert list(findings) == ["D111"]
    assert findings["D111"].level == Level.ERROR
    assert "'ai': 1 job waits, the oldest for 1 min" in findings["D111"].fact
    assert findings["D111"].advice.endswith("manage.py runworker --queues ai")


def test_a_worker_that_is_just_being_replaced_is_no_finding():
    make(queue="ai", ready_at=ago(timedelta(seconds=3)))
    assert found("queues") == {}


@pytest.mark.parametrize(
    ("waited", "level"), [(timedelta(minutes=6), Level.WARNING), (2 * HOUR, Level.ERROR)]
)
def test_jobs_that_wait_long_although_a_worker_is_there(waited, level):
    make_worker(queues=[])
    make(queue="ai", ready_at=ago(waited))
    make(queue="ai")
    finding = found("queues")["D112"]
    assert finding.level == level
    assert finding.data["waiting"] == 2
    assert finding.data["oldest_seconds"] >= waited.total_seconds()


def test_a_paused_queue_waits_for_a_person():
    Queue.objects.create(name="ai", paused_at=timezone.now())
    make(queue="ai", ready_at=ago(2 * HOUR))
    findings = found("queues")
    assert list(findings) == ["D113"]
    assert findings["D113"].level == Level.INFO
