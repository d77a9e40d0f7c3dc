"""Jobs that cannot run with this code."""

from __future__ import annotations

import pytest

from pgonly_django.models import State
from pgonly_django.monitoring.doctor.findings import Level
from tests.monitoring.doctor.conftest import found
from tests.queue.rows import make

pytestmark = pytest.mark.django_db(transaction=True)


def test_jobs_whose_task_no_longer_imports():
    make(args=[1])
    make(task="tests.jobs.gone")
    make(task="tests.jobs.gone")
    make(task="tests.jobs.gone_long_ago", state=State.SUCCEEDED)
    findings = found("jobs")
    assert list(findings) == ["D101"]
    finding = findings["D101"]
    assert finding.level == Level.ERROR
    assert finding.fact.startswith(
        "2 unfinished jobs of tests.jobs.gone in the database 'default' cannot run"
    )
    assert "manage.py pgonly_jobs cancel --task tests.jobs.gone" in finding.advice


def test_jobs_that_can_run_are_no_finding():
    make(args=[1])
    assert found("jobs") == {}
