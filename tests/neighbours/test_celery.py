"""A move from Celery and beat: a function that is a task of both, and the tables of django-celery-beat."""

from __future__ import annotations

import json

import pytest
from celery import Celery, shared_task
from celery.contrib.testing.worker import start_worker
from django.core.management import call_command
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from pgonly_django.models import Schedule
from pgonly_django.testing import drain
from tests import jobs

pytestmark = pytest.mark.slow


@pytest.fixture
def app():
    return Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=True)


@pytest.mark.django_db(transaction=True)  # Celery's worker closes the connections
def test_messages_of_the_old_kind_run_in_celery_while_new_jobs_run_here(app):
    shared_task(name="tests.jobs.add")(jobs.add.func)
    old = app.send_task("tests.jobs.add", [1, 2])
    jobs.add.enqueue(3, 4)
    with start_worker(app, perform_ping_check=False, shutdown_timeout=30):
        assert old.get(timeout=30) == 3
    assert [result.return_value for result in drain()] == [7]


@pytest.mark.django_db
def test_schedules_of_beat_are_imported_from_its_own_tables():
    at_three = CrontabSchedule.objects.create(minute="0", hour="3", timezone="Asia/Shanghai")
    often = IntervalSchedule.objects.create(every=5, period=IntervalSchedule.MINUTES)
    arguments = {"task": "tests.jobs.add", "args": json.dumps([1])}
    PeriodicTask.objects.create(name="nightly", crontab=at_three, **arguments)
    PeriodicTask.objects.create(name="often", interval=often, enabled=False, **arguments)
    call_command("pgonly_import_beat")
    nightly, often = Schedule.objects.order_by("name")
    assert (nightly.cron, str(nightly.timezone), nightly.args) == ("0 3 * * *", "Asia/Shanghai", [1])
    assert (often.every_seconds, often.paused_at is None) == (300, False)
    assert nightly.paused_at is None
