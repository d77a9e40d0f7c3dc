"""A move from django-tasks-db: the code of docs/how-to/move_the_queue.md#django-tasks-db with its own rows."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from django_tasks_db.models import DBTaskResult

from pgonly_django.compat import Task
from pgonly_django.models import Job
from pgonly_django.testing import drain
from tests import jobs
from tests.docs.pages import snippet

pytestmark = pytest.mark.slow


@pytest.mark.django_db
def test_what_waits_there_runs_here():
    tomorrow = timezone.now() + timedelta(days=1)
    old = Task.using(jobs.add, backend="old")
    old.enqueue(1, b=2)
    old.using(priority=5).enqueue(3)
    old.using(run_after=tomorrow).enqueue(4)
    exec(snippet("how-to/move_the_queue.md", "DBTaskResult"), {})
    assert not DBTaskResult.objects.exists()
    assert [result.return_value for result in drain()] == [4, 3]
    later = Job.objects.get(state="scheduled")
    assert (later.args, later.run_at) == ([4], tomorrow)
