"""A site with USE_TZ = False: its columns are read as naive times in TIME_ZONE, JSON keeps aware ones."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from html import unescape

import pytest
from django.core.management import call_command
from django.utils import timezone

from pgonly_django import answer_url
from pgonly_django.models import CostEntry, Job, JobStats, State, Wait
from pgonly_django.monitoring.doctor.examination import examine
from tests.admin.conftest import LIST, make_job, page_of
from tests.admin.jobs.test_cells import cells
from tests.admin.test_workers import LIST as WORKERS
from tests.admin.test_workers import make_worker
from tests.queue.rows import make_waiting

pytestmark = pytest.mark.django_db

LOCAL, AWARE = "2026-03-01 09:45:00", "2026-03-01T04:00:00+00:00"
MOMENT = datetime.fromisoformat(LOCAL)


@pytest.fixture(autouse=True)
def _naive(settings):
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Kathmandu"  # five hours and three quarters before UTC


@pytest.mark.parametrize("period", ["hour", "day", "week"])
def test_the_overview_opens(admin_client, period):
    worker = make_worker()
    make_job(State.RUNNING, worker_id=worker.pk, attempted_at=MOMENT)
    stats = {"queue": "default", "task": "tests.jobs.add", "starts_at": timezone.now(), "succeeded": 7}
    for granularity in ("minute", "hour"):
        JobStats.objects.create(granularity=granularity, **stats)
    CostEntry.objects.create(usd=3)
    assert "pgonly-problem" not in admin_client.get("/admin/pgonly_django/").text
    answer = admin_client.get(f"/admin/pgonly_django/overview/more/?period={period}")
    assert "pgonly-problem" not in answer.text
    assert "<strong>7</strong> succeeded" in answer.text
    assert "<strong>$3.00</strong> today" in answer.text


def test_costs_are_added_up(admin_client):
    CostEntry.objects.create(usd=3)
    text = admin_client.get("/admin/pgonly_django/costentry/sums/").text
    assert f"<title>{timezone.now():%Y-%m-%d}, $3.00 all calls. Opens the calls of this day.</title>" in text
    for address in map(unescape, re.findall(r'href="([^"]*at__gte[^"]*)"', text)):
        assert admin_client.get(address).context["cl"].result_count == 1


def test_a_time_is_edited_as_it_is_shown(admin_client):
    job = make_job(State.SCHEDULED, run_at=MOMENT + timedelta(days=3650), args=[1])
    address = f"{LIST}{job.pk}/edit/"
    form = admin_client.get(address).context["form"]
    sent = {name: form[name].value() for name in form.fields}
    sent |= {"run_at": "2036-03-01T09:45:00", "priority": 3}
    assert admin_client.post(address, sent).status_code == 302
    assert (Job.objects.get().run_at, Job.objects.get().priority) == (datetime(2036, 3, 1, 9, 45), 3)


def test_a_time_in_a_column_and_the_same_one_in_json_read_alike(admin_client):
    entry = {"outcome": "failed", "attempt": 1, "finished_at": AWARE}
    job = make_job(State.READY, enqueued_at=MOMENT, errors=[entry], log=[{"at": AWARE, "text": "hello"}])
    response = admin_client.get(page_of(job))
    assert [row.at for row in response.context["timeline"].rows] == [MOMENT, MOMENT]
    assert response.text.count(LOCAL) == 4  # its enqueue, its log, and on hover of two rows


def test_an_age_has_the_exact_time_for_people_and_for_machines(admin_client):
    make_job(State.READY, ready_at=timezone.now() - timedelta(minutes=3, seconds=10))
    make_job(State.READY, ready_at=MOMENT)
    newest, older = cells(admin_client.get(LIST), "time_cell")
    assert f'datetime="2026-03-01T09:45:00+05:45" title="{LOCAL}"' in newest
    assert "3 min 1" in older


def test_the_workers_are_listed_with_their_times(admin_client):
    make_worker(125.5)
    make_worker(stopped_at=MOMENT)
    response = admin_client.get(WORKERS)
    assert "2 min 5 s ago" in cells(response, "heartbeat")[1]
    assert f'title="{LOCAL}"' in cells(response, "life")[0]


def test_a_discarded_job_says_when_in_utc(admin_client):
    job = make_job(State.READY)
    Job.objects.discard()
    job.refresh_from_db()
    written = datetime.fromisoformat(job.errors[-1]["finished_at"])
    assert written.utcoffset() == timedelta(0)
    assert abs(timezone.make_naive(written) - job.finished_at) < timedelta(minutes=1)
    assert "Discarded" in admin_client.get(page_of(job)).text


def test_what_jobs_wait_for_is_shown_with_its_times(admin_client, client):
    wait = make_waiting(question="Include?", choices=["yes"], until=MOMENT + timedelta(days=3650))
    assert "until 2036-02-27 09:45:00" in admin_client.get(page_of(wait.job)).text
    for place in ("", "wait/", f"wait/{wait.pk}/change/", "job/"):
        assert "1\xa0h" in admin_client.get(f"/admin/pgonly_django/{place}").text, place
    assert "Feb. 27, 2036, 9:45 a.m." in client.get(answer_url(wait.key)).text
    Wait.objects.update(until=None, began_at=MOMENT)
    (finding,) = examine("default", only=["queues"]).findings
    assert finding.id == "D114"
    call_command("pgonly_health", "--min-workers", "0")
