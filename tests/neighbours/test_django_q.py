"""A move from django-q2: the code of docs/how-to/move_the_queue.md#django-q2 with django-q2's own rows."""

from __future__ import annotations

import pytest
from django_q.models import OrmQ
from django_q.models import Schedule as OldSchedule
from django_q.tasks import async_task, schedule

from pgonly_django.models import Schedule
from pgonly_django.testing import drain
from tests import jobs
from tests.docs.pages import snippet

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
PAGE = "how-to/move_the_queue.md"


def test_what_waits_for_django_q2_runs_here(monkeypatch):
    async_task("tests.jobs.add", 1, b=2)
    with monkeypatch.context() as before:  # a function, which became a task while its call waited
        before.setattr(jobs, "add", jobs.add.func)
        async_task(jobs.add, 3)
    exec(snippet(PAGE, "OrmQ"), {})
    assert not OrmQ.objects.exists()
    assert [result.return_value for result in drain()] == [3, 4]


def test_schedules_of_people_become_schedules_here(capsys):
    schedule("tests.jobs.add", 1, b=2, schedule_type="C", cron="0 3 * * *", name="nightly")
    schedule("tests.jobs.add", 1, schedule_type="I", minutes=7)
    schedule("tests.jobs.add", 1, schedule_type="O", name="once")
    exec(snippet(PAGE, "def times") + snippet(PAGE, "OldSchedule"), {})
    found = Schedule.objects.get(name="nightly")
    assert (found.task, found.args, found.kwargs) == ("tests.jobs.add", [1], {"b": 2})
    assert found.cron == "0 3 * * *"
    assert Schedule.objects.exclude(name="nightly").get().every_seconds == 420
    assert "left out: once" in capsys.readouterr().out
    assert OldSchedule.objects.count() == 3
