"""The job list."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django.admin.paging import COUNTED_AT_MOST
from pgonly_django.models import Job, State
from tests.admin.conftest import LIST, make_job
from tests.queue.rows import insert_jobs

pytestmark = pytest.mark.django_db


def cells(response, name):
    """The inner HTML of one column, row by row."""
    pattern = rf'<t[dh] [^>]*class="field-{name}[^"]*"[^>]*>(.*?)</t[dh]>'
    return re.findall(pattern, response.content.decode(), re.DOTALL)


def test_the_newest_job_comes_first(admin_client):
    for name in ("first", "second", "third"):
        make_job(task=f"shop.{name}")
    response = admin_client.get(LIST)
    assert [job.task for job in response.context["cl"].result_list] == [
        "shop.third",
        "shop.second",
        "shop.first",
    ]


@pytest.mark.parametrize("state", State.values)
def test_every_state_has_its_own_badge(admin_client, state):
    make_job(state)
    (badge,) = cells(admin_client.get(LIST), "state_badge")
    assert f"pgonly-badge pgonly-{state}" in badge
    assert str(State(state).label) in badge


def test_a_running_job_that_was_asked_to_stop_says_cancelling(admin_client):
    make_job(State.RUNNING, cancel_requested_at=timezone.now())
    assert "Cancelling" in cells(admin_client.get(LIST), "state_badge")[0]


def test_a_task_is_named_shortly_and_in_full_on_hover(admin_client):
    job = make_job(task="shop.mail.send_receipt")
    (cell,) = cells(admin_client.get(LIST), "task_name")
    assert f'title="shop.mail.send_receipt {job.pk}">send_receipt</span>' in cell


def test_progress_is_a_bar_with_its_figures(admin_client):
    make_job(State.RUNNING, progress={"done": 412, "total": 1000, "message": "paper 412"})
    (cell,) = cells(admin_client.get(LIST), "progress_cell")
    assert '<progress class="pgonly-progress" value="412" max="1000">41%</progress>' in cell
    assert "412 / 1,000" in cell
    assert 'title="paper 412"' in cell


@pytest.mark.parametrize(
    "progress", ["text", {"done": "x", "total": 0}, {"done": 3, "total": 0}, {"total": 5}, []]
)
def test_odd_progress_does_not_break_the_list(admin_client, progress):
    make_job(State.RUNNING, progress=progress)
    assert admin_client.get(LIST).status_code == 200


def test_a_scheduled_job_says_how_long_until_it_is_due(admin_client):
    make_job(State.SCHEDULED, run_at=timezone.now() + timedelta(hours=2, minutes=5, seconds=30))
    assert "in 2 h 5 min" in cells(admin_client.get(LIST), "progress_cell")[0]


def run_of(seconds, outcome="failed"):
    """A run's entry, which began four minutes ago."""
    began = timezone.now() - timedelta(minutes=4)
    ended = began + timedelta(seconds=seconds)
    return {"outcome": outcome, "started_at": began.isoformat(), "finished_at": ended.isoformat()}


DISCARDED = {"outcome": "discarded", "finished_at": "2026-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("state", "errors", "said"),
    [
        (State.FAILED, [run_of(0.003)], "took 3 ms"),
        (State.FAILED, [run_of(0.003), DISCARDED], None),
        (State.CANCELLED, [run_of(0.003)], "took 3 ms"),
        (State.CANCELLED, [], None),
        (State.FAILED, [{"outcome": "failed", "started_at": "no time", "finished_at": 7}], None),
        (State.SUCCEEDED, [run_of(0.003)], "took 4 min"),
    ],
)
def test_what_a_run_took_does_not_count_the_wait_for_a_person(admin_client, state, errors, said):
    ago = timezone.now() - timedelta(minutes=4)
    make_job(state, errors=errors, attempted_at=ago, finished_at=timezone.now())
    (cell,) = cells(admin_client.get(LIST), "progress_cell")
    assert (f">{said}<" in cell) if said else ("took" not in cell)


def test_age_and_attempts_are_shown(admin_client):
    enqueued = timezone.now() - timedelta(minutes=3, seconds=10, milliseconds=500)
    make_job(State.READY, enqueued_at=enqueued, attempt=2, max_attempts=4, interruptions=1, crashes=2)
    response = admin_client.get(LIST)
    assert "3 min 10 s" in cells(response, "age")[0]
    (attempts,) = cells(response, "attempts")
    assert attempts.startswith("2/4")
    assert "1 interruption<" in attempts
    assert "2 crashes<" in attempts


def test_a_failed_job_says_why_in_the_list_and_a_succeeded_one_no_more(admin_client):
    errors = [
        {"outcome": "crashed", "reason": "Its worker died."},
        {"outcome": "failed", "exception": "builtins.KeyError", "message": "'<b>'"},
    ]
    make_job(State.FAILED, errors=errors)
    make_job(State.SUCCEEDED, errors=errors)
    succeeded, failed = cells(admin_client.get(LIST), "task_name")
    assert "KeyError: &#x27;&lt;b&gt;&#x27;" in failed
    assert "KeyError" not in succeeded


def test_large_columns_are_not_read_for_the_list(admin_client):
    make_job(State.SUCCEEDED, result={"large": 1}, kwargs={"large": 1}, log=[{"text": "large"}])
    (job,) = admin_client.get(LIST).context["cl"].result_list
    assert {"args", "kwargs", "result", "errors", "log"} <= job.get_deferred_fields()


@pytest.mark.parametrize("rows", [1, 40])
def test_the_number_of_queries_does_not_grow_with_the_rows(admin_client, django_assert_max_num_queries, rows):
    for number in range(rows):
        make_job(queue=f"queue {number % 3}", task=f"shop.task_{number % 4}", errors=[{"message": "x"}])
    with django_assert_max_num_queries(17):
        admin_client.get(LIST)


def test_the_count_does_not_read_what_only_a_page_shows(admin_client):
    make_job(State.FAILED, errors=[{"message": "large"}])
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(LIST)
    (count,) = [query["sql"] for query in queries if "COUNT(" in query["sql"]]
    assert "errors" not in count


def test_a_count_beyond_the_cap_is_shown_as_such(admin_client):
    with connection.cursor() as cursor:
        cursor.execute(insert_jobs(f"generate_series(1, {COUNTED_AT_MOST})"))
    assert "10,000 jobs" in admin_client.get(LIST).content.decode()
    make_job()
    page = admin_client.get(LIST).content.decode()
    assert "10,000+ jobs" in page
    assert "10,001 jobs" not in page


def test_pages_are_linked_and_reached(admin_client):
    Job.objects.bulk_create(Job(task=f"shop.task_{number}") for number in range(120))
    assert 'href="?p=3"' in admin_client.get(LIST).content.decode()
    assert len(admin_client.get(f"{LIST}?p=3").context["cl"].result_list) == 20


def test_jobs_are_neither_added_nor_edited_by_hand(admin_client):
    job = make_job()
    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.post(f"{LIST}{job.pk}/change/", {"state": "succeeded"}).status_code == 403
    job.refresh_from_db()
    assert job.state == State.READY


def test_a_person_without_the_view_permission_sees_nothing(client, person):
    person("operate_job")
    assert client.get(LIST).status_code == 403


def test_neither_scripts_nor_styles_stand_in_the_page(admin_client):
    make_job(State.RUNNING, progress={"done": 1, "total": 2})
    page = admin_client.get(LIST).content.decode()
    assert_no_inline_code(page)


def assert_no_inline_code(page):
    assert "pgonly_django/admin.css" in page
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", page)
