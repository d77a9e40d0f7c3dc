"""Workers that are silent, and that are not there."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import found
from tests.queue.rows import ago, make, make_running, make_worker

pytestmark = pytest.mark.django_db
SILENT = timedelta(minutes=20)


def test_without_a_worker():
    assert found("workers")["D121"].level == Level.INFO
    make()
    finding = found("workers")["D121"]
    assert finding.level == Level.WARNING
    assert "manage.py runworker" in finding.advice


def test_a_silent_worker_that_holds_a_job():
    make_worker(name="live")
    worker = make_worker(SILENT, name="w7", hostname="node7", pid=123, running=1)
    job = make_running(worker.pk, attempted_at=ago(SILENT))
    findings = found("workers")
    assert list(findings) == ["D122"]
    finding = findings["D122"]
    assert finding.level == Level.ERROR
    assert "w7 (node7, process 123) has been silent for 20 min and holds 1 job" in finding.fact
    assert finding.data["jobs"] == [str(job.pk)]


def test_one_that_is_late_with_its_heartbeat_is_a_warning():
    make_worker(name="live")
    worker = make_worker(timedelta(seconds=40), name="w7", running=1)
    make_running(worker.pk)
    assert found("workers")["D122"].level == Level.WARNING


def test_one_that_has_died_without_jobs_is_a_note():
    make_worker(name="live")
    make_worker(SILENT, name="w7")
    assert found("workers")["D122"].level == Level.INFO


def test_several_versions():
    make_worker(version="1.0")
    assert found("workers") == {}
    make_worker(version=None)
    finding = found("workers")["D123"]
    assert finding.level == Level.INFO
    assert "1.0" in finding.fact
