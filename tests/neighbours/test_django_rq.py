"""A move from RQ: the code of docs/how-to/move_the_queue.md#rq-and-django-rq with jobs in a real Redis."""

from __future__ import annotations

from datetime import timedelta

import django_rq
import pytest
from rq import Queue

from pgonly_django.models import Job
from pgonly_django.testing import drain
from tests.docs.pages import snippet

pytestmark = pytest.mark.slow


@pytest.mark.django_db
def test_what_waits_in_redis_runs_here(redis_url, monkeypatch):
    from redis import Redis

    queue = Queue(connection=Redis.from_url(redis_url))
    queue.enqueue("tests.jobs.add", 1, b=2)
    queue.enqueue_in(timedelta(hours=1), "tests.jobs.add", 3)
    monkeypatch.setattr(django_rq, "get_queue", lambda name: queue)
    exec(snippet("how-to/move_the_queue.md", "queue.jobs"), {})
    assert (queue.count, queue.scheduled_job_registry.count) == (0, 0)
    assert [result.return_value for result in drain()] == [3]
    later = Job.objects.get(state="scheduled")
    assert timedelta(minutes=59) < later.run_at - later.enqueued_at <= timedelta(hours=1)
