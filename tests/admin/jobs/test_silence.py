"""A running job whose worker is silent looks so in the list and on its page."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import State
from tests.admin.conftest import LIST, make_job
from tests.admin.jobs.test_page import text_of
from tests.admin.test_workers import make_worker

pytestmark = pytest.mark.django_db
SILENT = timedelta(seconds=40)


@pytest.fixture
def silent_job():
    """It was last heard of 40 s ago, 10 min after its start."""
    heard_at = timezone.now() - SILENT
    return make_job(
        State.RUNNING,
        worker_id=make_worker(SILENT.total_seconds(), name="lost").pk,
        lease_expires_at=heard_at + timedelta(seconds=60),
        attempted_at=heard_at - timedelta(minutes=10),
        started_at=heard_at - timedelta(minutes=10),
        reported_at=heard_at,
        progress={"done": 72, "total": 120},
    )


def test_the_page_names_the_silent_worker_and_says_what_follows(page, silent_job):
    text = text_of(page(silent_job))
    assert "Silent for 40 s: the worker lost does not answer. No worker is live" in text
    make_worker()
    assert "Another worker takes the job over within about" in text_of(page(silent_job))


def test_the_page_shows_no_speed_and_no_rest_after_the_last_report(page, silent_job):
    text = text_of(page(silent_job))
    assert "60 % 72 / 120" in text
    assert "per minute" not in text
    assert text.count(" left") == 1  # of its lease


def test_the_run_ends_in_the_time_scale_where_it_was_last_heard(page, silent_job):
    silent_job.enqueued_at = silent_job.attempted_at
    silent_job.save()
    text = text_of(page(silent_job))
    assert "10 min running" in text


def test_the_button_does_not_promise_that_the_worker_is_asked(page, silent_job):
    assert "Its worker is asked to stop it." not in page(silent_job)
    assert "it is cancelled instead of taken over" in page(silent_job)


def test_a_job_that_holds_its_own_row_locked_is_not_silent(page, silent_job):
    live = make_worker(name="busy")
    silent_job.worker_id = live.pk
    silent_job.save()
    assert "Silent" not in text_of(page(silent_job))


def test_the_list_has_a_badge_for_it_and_no_rest(admin_client, silent_job):
    make_job(State.RUNNING, worker_id=make_worker().pk)
    silent, running = sorted(
        admin_client.get(LIST, {"state__exact": "running"}).context["cl"].result_list,
        key=lambda job: job.pk != silent_job.pk,
    )
    assert silent.silent_for >= SILENT
    assert running.silent_for is None
    html = admin_client.get(LIST, {"state__exact": "running"}).text
    assert html.count("Its worker has been silent for 4") == 1


def test_the_list_of_running_jobs_has_the_silent_ones_first(admin_client, silent_job):
    newer = make_job(State.RUNNING, worker_id=make_worker().pk, lease_expires_at=timezone.now() + SILENT)
    listed = admin_client.get(LIST, {"state__exact": "running"}).context["cl"].result_list
    assert [job.pk for job in listed] == [silent_job.pk, newer.pk]
    listed = admin_client.get(LIST).context["cl"].result_list
    assert [job.pk for job in listed] == [newer.pk, silent_job.pk]


def test_the_overview_and_the_page_of_its_worker_show_no_rest_either(admin_client, silent_job):
    worker = f"/admin/pgonly_django/worker/{silent_job.worker_id}/change/"
    for address in ("/admin/pgonly_django/", worker):
        text = text_of(admin_client.get(address).text)
        assert re.search("[Ss]ilent (for )?4", text), address
        assert "72 / 120" in text
        assert " left" not in text
        assert "10 min" in text
        assert "10 min 4" not in text


def test_a_run_that_was_killed_says_when_it_was_last_heard_of(page, silent_job):
    heard_at = timezone.now() - timedelta(minutes=5)
    entry = {
        "outcome": "crashed",
        "reason": "Its worker died.",
        "started_at": silent_job.started_at.isoformat(),
    }
    silent_job.errors = [entry | {"finished_at": heard_at.isoformat()}]
    silent_job.state = State.READY
    silent_job.save()
    assert "last heard of" in text_of(page(silent_job))
