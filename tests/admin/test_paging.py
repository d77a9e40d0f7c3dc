"""No list may keep the database busy for long."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.db.models.expressions import RawSQL
from django.test.utils import CaptureQueriesContext

from pgonly_django.admin.charts import local_text
from pgonly_django.admin.jobs.change_list import JobChangeList
from pgonly_django.admin.paging import TimedChangeList, oldest_of_newest
from pgonly_django.admin.workers import WorkerAdmin
from pgonly_django.models import Job, Limiter, State
from tests.admin.conftest import LIST, make_job, make_session
from tests.admin.test_workers import make_worker
from tests.queue.rows import ago, insert_jobs
from tests.scheduling.rows import look
from tests.scheduling.rows import make as make_schedule

pytestmark = pytest.mark.django_db

# 100 MB of arguments in little space: reading through them takes far longer than the limit below.
LARGE_ROWS = insert_jobs(
    "generate_series(1, 1000) AS i",
    id="('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid",
    args="jsonb_build_array(repeat('x', 100000))",
)


@pytest.fixture
def large_rows():
    with connection.cursor() as cursor:
        cursor.execute(LARGE_ROWS)


@pytest.fixture
def limits(monkeypatch):
    """Sets those of the list of jobs."""
    return lambda **values: [monkeypatch.setattr(JobChangeList, *each) for each in values.items()]


SHORT, TINY, LONG = timedelta(milliseconds=100), timedelta(milliseconds=1), timedelta(minutes=1)


def test_a_slow_search_falls_back_to_the_newest_rows_and_says_so(admin_client, large_rows, limits):
    limits(statement_limit=SHORT, newest_rows=5)
    wanted = make_job(args=["needle"])
    response = admin_client.get(f"{LIST}?q=needle")
    assert [job.pk for job in response.context["cl"].result_list] == [wanted.pk]
    assert "at most the newest 5 rows were read" in response.text
    assert '<a href="?q=needle&amp;whole=1">Read all of it</a>' in response.text


def test_a_search_is_narrowed_sooner_than_a_filter(admin_client, large_rows, limits):
    limits(quick_limit=LONG, statement_limit=LONG, search_limit=TINY, searched_rows=5)
    changelist = admin_client.get(f"{LIST}?q=needle").context["cl"]
    assert changelist.scope == 5
    changelist = admin_client.get(f"{LIST}?queue=default").context["cl"]
    assert changelist.scope is None


@pytest.mark.slow
def test_who_asks_for_the_whole_table_gets_it_and_keeps_it_from_tab_to_tab(admin_client, large_rows, limits):
    limits(quick_limit=TINY, newest_rows=5)
    wanted = [make_job(args=["needle"]) for _ in range(7)]
    narrowed = admin_client.get(f"{LIST}?q=needle").context["cl"]
    assert narrowed.result_count == 5
    changelist = admin_client.get(f"{LIST}{narrowed.address_of_all}").context["cl"]
    assert {job.pk for job in changelist.result_list} == {job.pk for job in wanted}
    assert (changelist.scope_note, changelist.address_of_all) == ("", "")
    assert changelist.tabs[2]["address"] == "?q=needle&state__exact=ready&whole=1"


def test_a_whole_table_that_takes_too_long_even_so_is_narrowed_with_no_second_offer(
    admin_client, large_rows, limits
):
    limits(patient_limit=TINY, newest_rows=5)
    changelist = admin_client.get(f"{LIST}?q=needle&whole=1").context["cl"]
    assert changelist.scope == 5
    assert changelist.address_of_all == ""


def test_a_search_that_is_slow_even_there_is_stopped_and_says_so(admin_client, large_rows, limits):
    limits(statement_limit=SHORT, newest_rows=999)
    response = admin_client.get(f"{LIST}?q=needle")
    assert list(response.context["cl"].result_list) == []
    assert "among the newest 999 rows and was stopped" in response.text


def test_an_action_on_everything_found_keeps_to_the_rows_that_were_looked_at(
    admin_client, large_rows, limits
):
    limits(statement_limit=SHORT, newest_rows=5)
    data = {"action": "cancel_jobs", "select_across": "1", "index": "0", "_selected_action": [make_job().pk]}
    admin_client.post(f"{LIST}?q=x", {**data, "confirmed": "yes"})
    # Of the newest five, one has no x in it.
    assert Job.objects.filter(state="cancelled").count() == 4


def test_the_jobs_of_a_time_long_ago_are_sought_among_those_of_before_it(admin_client, large_rows, limits):
    limits(statement_limit=SHORT, newest_rows=5)
    end = ago(timedelta(minutes=5)).replace(microsecond=0)
    Job.objects.update(finished_at=end - timedelta(seconds=1))
    number = int((end - timedelta(seconds=9)).timestamp() * 1000) << 80
    wanted = make_job(
        State.SUCCEEDED, pk=UUID(int=number), args=["needle"], finished_at=end - timedelta(seconds=1)
    )
    for _ in range(5):
        make_job(args=["needle"])
    bounds = {"from": local_text(end - timedelta(minutes=1)), "until": local_text(end)}
    response = admin_client.get(LIST, {"q": "needle", "time": "finished", **bounds})
    changelist = response.context["cl"]
    assert (changelist.scope, [job.pk for job in changelist.result_list]) == (5, [wanted.pk])
    assert "only the 5 rows before the end of that time were read" in response.text


def test_the_jobs_of_a_time_with_an_end_are_narrowed_as_soon_as_a_search(admin_client, limits):
    limits(quick_limit=LONG, search_limit=SHORT)
    for name, limit in (("from", LONG), ("until", SHORT)):
        changelist = admin_client.get(LIST, {"time": "finished", name: "2026-03-01T04:00"}).context["cl"]
        assert changelist.quick_limit == limit


def test_any_other_list_that_takes_too_long_shows_none_of_its_rows_and_says_so(admin_client, monkeypatch):
    make_worker()
    rows_of = WorkerAdmin.get_queryset

    def slow_rows(self, request):
        return rows_of(self, request).annotate(slow=RawSQL("pg_sleep(5)::text", []))

    monkeypatch.setattr(WorkerAdmin, "get_queryset", slow_rows)
    monkeypatch.setattr(TimedChangeList, "statement_limit", timedelta(milliseconds=50))
    response = admin_client.get("/admin/pgonly_django/worker/")
    assert list(response.context["cl"].result_list) == []
    assert "took longer than 0.05 s and was stopped" in response.text


def test_a_quick_list_has_no_note(admin_client):
    make_job()
    page = admin_client.get(f"{LIST}?q=add").text
    assert "newest 100,000" not in page


def make_job_of_many(number):
    worker = make_worker(name=f"worker {number}")
    errors = [{"message": "x"}]
    make_job(queue=f"queue {number}", task=f"shop.task_{number}", errors=errors, worker_id=worker.pk)


def make_schedule_that_ran(number):
    make_schedule(f"schedule {number}"), look()


# Four of the statements of a list set and end its limit of time; four more of that of jobs are around their costs.
@pytest.mark.parametrize(
    ("name", "make", "most"),
    [
        ("job", make_job_of_many, 23), ("worker", lambda _number: make_worker(), 8),
        ("limiter", lambda number: Limiter.objects.create(name=f"l{number}"), 10),
        ("schedule", make_schedule_that_ran, 10), ("session", lambda _number: make_session(), 10),
    ],
)  # fmt: skip
def test_the_number_of_statements_does_not_grow_with_the_rows(admin_client, name, make, most):
    counts = []
    for number in range(4):
        make(number)
        with CaptureQueriesContext(connection) as queries:
            admin_client.get(f"/admin/pgonly_django/{name}/")
        counts.append(len(queries))
    assert counts[1] == counts[-1] <= most


@pytest.mark.parametrize("name", ["job", "worker", "session"])
def test_no_count_reads_the_whole_table(admin_client, name):
    make_job()
    with CaptureQueriesContext(connection) as queries:
        assert admin_client.get(f"/admin/pgonly_django/{name}/").status_code == 200
    counts = [query["sql"] for query in queries if query["sql"].startswith("SELECT COUNT(")]
    assert len(counts) == 1
    assert "LIMIT 10001)" in counts[0]


def test_the_oldest_of_the_newest_rows_is_that_of_the_whole_table():
    jobs = [make_job() for _ in range(4)]
    some = Job.objects.filter(pk=jobs[0].pk)
    assert oldest_of_newest(some, 10) is None
    assert oldest_of_newest(some, 4) == jobs[0].pk
    assert oldest_of_newest(some, 2) == jobs[2].pk


@pytest.mark.parametrize(
    "address", ["session/?ip=1", "job/?id__range=foo", "job/?enqueued_at__year=99999999999999999999999999"]
)
def test_a_value_that_no_statement_accepts_leads_back_to_the_plain_list(admin_client, address):
    response = admin_client.get(f"/admin/pgonly_django/{address}")
    assert (response.status_code, response["Location"].partition("?")[2]) == (302, "e=1")
