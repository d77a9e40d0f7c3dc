"""How many statements the overview sends."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pgonly_django.models import Budget, Limiter, Queue, Schedule, State
from tests.admin.conftest import make_job
from tests.admin.overview.test_overview import MORE, PAGE, log_in
from tests.queue.rows import make, make_running, make_worker

pytestmark = pytest.mark.django_db(transaction=True)


def statements(browser) -> int:
    with CaptureQueriesContext(connection) as asked:
        for page in (PAGE, MORE):
            assert browser.get(page).status_code == 200
    return len(asked)


def test_the_number_of_statements_does_not_grow_with_the_rows(admin_client):
    counts = []
    for number in range(4):
        worker = make_worker(queues=[f"q{number}"], version="1.0")
        for done in (1, 2):
            make_running(worker.pk, queue=f"q{number}", progress={"done": done, "total": 9})
        make(queue=f"q{number}"), make(queue=f"rowless {number}"), Queue.objects.named(f"q{number}")
        Budget.objects.create(name=f"b{number}", usd=1), Limiter.objects.create(name=f"l{number}")
        make_job(State.HELD, held_by=f"budget:b{number}")
        Schedule.objects.create(name=f"s{number}", task="tests.jobs.add", cron="0 3 * * *")
        log_in(str(User.objects.create_user(f"user {number}").pk))
        counts.append(statements(admin_client))
    assert counts[1] == counts[-1] < 120
