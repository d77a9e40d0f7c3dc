"""How the job list is sorted, what its form shows, and what it says where it is empty."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pgonly_django.models import Job, State
from tests.admin.conftest import LIST, make_job
from tests.queue.rows import ago, make_worker

pytestmark = pytest.mark.django_db


def listed(client, **query):
    return [job.pk for job in client.get(LIST, query).context["cl"].result_list]


def sorts(client, **query):
    """The columns that can be sorted by, each with the address of its heading."""
    page = client.get(LIST, query).text
    found = re.findall(
        r'<th scope="col" class="sortable column-(\w+)[^>]*>.*?<div class="text"><a [^>]*href="(\?[^"]*)">',
        page,
        re.DOTALL,
    )
    return {name: address.replace("&amp;", "&") for name, address in found}


TIMES = {
    State.RUNNING: "attempted_at", State.SCHEDULED: "run_at", State.FAILED: "finished_at",
    State.CANCELLED: "finished_at",
}  # fmt: skip


@pytest.mark.parametrize("state", State.values)
def test_times_sort_in_the_states_in_which_an_index_finds_the_jobs(admin_client, state):
    make_job(state)
    expected = {"enqueued", "time_cell"} if state in TIMES else {"enqueued"}
    assert set(sorts(admin_client, state__exact=state)) == expected


@pytest.mark.parametrize(("state", "column"), TIMES.items())
def test_a_click_on_the_heading_sorts_by_the_time_of_that_state(admin_client, state, column):
    late, early, middle = (make_job(state, **{column: ago(timedelta(hours=hours))}).pk for hours in (1, 9, 5))
    address = sorts(admin_client, state__exact=state)["time_cell"]
    response = admin_client.get(LIST + address)
    assert [job.pk for job in response.context["cl"].result_list] == [early, middle, late]
    assert "column-time_cell sorted ascending" in response.text


def test_the_oldest_jobs_come_first_after_a_click_on_enqueued(admin_client):
    jobs = [make_job().pk for _ in range(3)]
    assert listed(admin_client) == jobs[::-1]
    address = sorts(admin_client)["enqueued"]
    assert [job.pk for job in admin_client.get(LIST + address).context["cl"].result_list] == jobs


@pytest.mark.parametrize("order", ["1", "-2", "3", "4", "6", "7.8", "99", "x", "-"])
def test_an_address_does_not_sort_by_what_no_index_finds(admin_client, order):
    make_job(State.SUCCEEDED)
    with CaptureQueriesContext(connection) as queries:
        assert admin_client.get(LIST, {"o": order}).status_code == 200
    (rows,) = [query["sql"] for query in queries if "last_error" in query["sql"]]
    assert rows.partition("ORDER BY ")[2].startswith('"pgonly_job"."id" DESC')


def test_the_job_that_failed_last_comes_first_among_failed_ones(admin_client):
    jobs = [make_job(State.FAILED, finished_at=ago(timedelta(hours=hours))).pk for hours in (5, 1, 9)]
    in_order = [jobs[1], jobs[0], jobs[2]]
    listed_jobs = admin_client.get(LIST, {"state__exact": "failed"}).context["cl"].result_list
    assert [job.pk for job in listed_jobs] == in_order


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_a_click_on_took_puts_the_longest_run_first(admin_client, state):
    error = {"outcome": "failed", "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:09Z"}
    end, now = timedelta(hours=1), {"finished_at": ago(timedelta(hours=1)), "errors": [error]}
    short, long, middle = (
        make_job(state, attempted_at=ago(end + timedelta(minutes=minutes)), **now).pk for minutes in (1, 9, 5)
    )
    address = sorts(admin_client, state__exact=state)["took"]
    jobs = admin_client.get(LIST + address).context["cl"].result_list
    assert [job.pk for job in jobs] == [short, middle, long]
    jobs = admin_client.get(LIST + address.replace("o=", "o=-")).context["cl"].result_list
    assert [job.pk for job in jobs] == [long, middle, short]


def test_failed_jobs_say_why_instead_of_which_worker_and_how_far(admin_client):
    facts = {"worker_id": make_worker().pk, "progress": {"done": 1, "total": 2, "message": ""}}
    make_job(State.FAILED, **facts)
    columns = ("column-worker", "column-progress_cell")
    assert all(column in admin_client.get(LIST).text for column in columns)
    assert not any(column in admin_client.get(LIST, {"state__exact": "failed"}).text for column in columns)


def test_a_sorted_list_has_no_filter_to_clear_and_another_tab_is_not_sorted(admin_client):
    make_job(State.FAILED)
    response = admin_client.get(LIST, {"o": "5", "state__exact": "failed"})
    filters = response.text.partition("pgonly-filters")[2].partition('data-live="all"')[0]
    assert filters
    assert "Show all" not in filters
    assert {tab["address"] for tab in response.context["cl"].tabs[:2]} == {"?", "?state__exact=running"}
    assert '<input type="hidden" name="o" value="5">' in response.text


def form_of(client, **query):
    """The form above the list, and the part of it that is behind "More filters"."""
    page = client.get(LIST, query).text
    form = page[page.index('<form id="changelist-search"') :]
    return form[: form.index("<details")], form[form.index("<details") : form.index("</details>")]


def test_rare_filters_are_behind_more_filters(admin_client):
    make_worker()
    for name in ("Key", "Value"):  # a filter with one choice is left out
        make_job(
            State.FAILED, queue=name, task=f"shop.{name}", errors=[{"exception": f"builtins.{name}Error"}]
        )
    names = [set(re.findall(r' name="(\w+)"', part)) for part in form_of(admin_client)]
    assert names == [{"q", "queue", "task", "error", "time"}, {"worker", "late", "stuck", "from", "until"}]


@pytest.mark.parametrize(
    ("query", "is_open"),
    [({}, False), ({"queue": "ai"}, False), ({"late": "60"}, True), ({"until": "2026-01-01T00:00"}, True)],
)
def test_more_filters_are_open_where_one_of_them_is_chosen(admin_client, query, is_open):
    _often, rarely = form_of(admin_client, **query)
    assert rarely.startswith('<details class="pgonly-rare" open>') is is_open


def test_an_empty_list_says_how_to_clear_the_search_and_the_filters(admin_client):
    make_job(State.FAILED)
    clear = "Clear the search and the filters"
    page = admin_client.get(LIST, {"state__exact": "failed", "queue": "gone", "q": "x"}).text
    assert f'match the search and the filters. <a href="?state__exact=failed">{clear}</a>' in page
    assert clear not in admin_client.get(LIST).text


def test_an_empty_tab_says_that_there_are_none_and_has_nothing_to_clear(admin_client):
    page = admin_client.get(LIST, {"state__exact": "held"}).text
    assert "There are no jobs here." in page
    assert "Clear the search" not in page
    Job.objects.create(task="a.b")
    assert "There are no jobs here." not in admin_client.get(LIST).text


def test_another_list_says_so_too(admin_client):
    page = admin_client.get("/admin/pgonly_django/worker/").text
    assert "There are no workers here." in page
    page = admin_client.get("/admin/pgonly_django/schedule/", {"q": "nothing"}).text
    assert 'No schedules match the search and the filters. <a href="?">' in page
