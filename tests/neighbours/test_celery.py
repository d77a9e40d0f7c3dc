"""A move from Celery: a function that is a task of both."""

from __future__ import annotations

import pytest
from celery import Celery, shared_task
from celery.contrib.testing.worker import start_worker

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
