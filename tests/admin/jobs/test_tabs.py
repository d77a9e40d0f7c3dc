"""The tabs above the job list, and what the list is called."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pgonly_django.admin.jobs import change_list
from pgonly_django.admin.paging import COUNTED_AT_MOST, CappedPaginator, capped_counts, label_of
from pgonly_django.models import Job, State
from tests.admin.conftest import LIST, make_job
from tests.queue.rows import insert_jobs, make_gathering, make_waiting

pytestmark = pytest.mark.django_db


def tabs(response):
    """Name and count of each."""
    return {tab["name"]: tab["count"] for tab in response.context["cl"].tabs}


def test_each_state_has_a_tab_with_its_number_of_jobs(admin_client):
    for number, state in enumerate(State.values):
        for _ in range(number):
            make_job(state)
    make_job(State.READY, crashes=2)
    make_job(State.READY, slots=1)
    counts = {state: str(number) for number, state in enumerate(State.values)}
    assert tabs(admin_client.get(LIST)) == {"": "", **counts, "ready": str(int(counts["ready"]) + 2)}


def test_a_tab_leads_to_its_state_and_keeps_the_other_filters(admin_client):
    wanted = make_job(State.FAILED, queue="ai")
    make_job(State.FAILED, queue="mail")
    make_job(State.READY, queue="ai")
    response = admin_client.get(f"{LIST}?queue=ai&p=1")
    (tab,) = [tab for tab in response.context["cl"].tabs if tab["name"] == "failed"]
    assert (tab["address"], tab["count"]) == ("?queue=ai&state__exact=failed", "1")
    response = admin_client.get(LIST + tab["address"])
    assert [job.pk for job in response.context["cl"].result_list] == [wanted.pk]
    assert tabs(response)["ready"] == "1"
    (current,) = re.findall(r'<a class="pgonly-tab [^>]*aria-current="page">([^<]*)', response.text)
    assert current.strip() == "Failed"


def test_scheduled_jobs_are_told_apart_where_there_are_some(admin_client):
    make_job(State.SCHEDULED)
    assert set(tabs(admin_client.get(LIST))) == {"", *State.values}
    retried = make_job(State.SCHEDULED, attempt=7, errors=[{"outcome": "failed", "attempt": 7}])
    make_waiting("a", question="Include?")
    make_waiting("b")
    parent = make_gathering(ready=1).parent
    response = admin_client.get(LIST)
    names = ["scheduled", "retrying", "asks-person", "waits-event", "waits-jobs"]
    assert {name: tabs(response)[name] for name in names} == dict.fromkeys(names, "1")
    for name, job in (("retrying", retried), ("waits-jobs", parent)):
        listed = admin_client.get(f"{LIST}?state__exact={name}").context["cl"]
        assert [each.pk for each in listed.result_list] == [job.pk]
        assert [verb.name for verb, _ in listed.verbs_for_all][:2] == ["run_now", "retry"]


def test_of_more_scheduled_jobs_than_are_counted_the_number_is_a_lower_bound(admin_client):
    soon = {"state": "'scheduled'", "run_at": "now() + interval '1 day'"}
    with connection.cursor() as cursor:
        cursor.execute(insert_jobs(f"generate_series(1, {COUNTED_AT_MOST + 5})", **soon))
    make_waiting("a")
    counts = tabs(admin_client.get(LIST))
    assert (counts["scheduled"], counts["waits-event"]) == ("10,000+", "1")


def test_all_is_a_tab_as_well_and_leads_back(admin_client):
    first = admin_client.get(f"{LIST}?state__exact=held&task=a.b").context["cl"].tabs[0]
    assert (first["label"], first["address"], first["is_chosen"]) == ("All", "?task=a.b", False)
    assert admin_client.get(LIST).context["cl"].tabs[0]["is_chosen"]


def test_a_tab_counts_no_further_than_the_cap(admin_client):
    with connection.cursor() as cursor:
        cursor.execute(insert_jobs(f"generate_series(1, {COUNTED_AT_MOST + 5})"))
    assert tabs(admin_client.get(LIST))["ready"] == "10,000+"
    assert label_of(COUNTED_AT_MOST) == "10,000"


def test_tabs_whose_count_takes_too_long_have_no_number(admin_client, monkeypatch):
    monkeypatch.setattr(change_list, "COUNTS_LIMIT", timedelta(milliseconds=20))
    make_job(State.FAILED, queue="ai")
    with connection.execute_wrapper(slow_counts):
        response = admin_client.get(LIST)
        narrowed = tabs(admin_client.get(f"{LIST}?queue=ai"))
    assert set(tabs(response).values()) == {""}
    assert len(response.context["cl"].result_list) == 1
    assert (narrowed["failed"], narrowed["succeeded"]) == ("", "0"), "the one does not follow from the others"


def slow_counts(execute, sql, params, many, context):
    if sql.count("AS counted") > 1:  # those that have indexes
        sql = f"SELECT pg_sleep(5) FROM ({sql}) AS it"
    return execute(sql, params, many, context)


def test_tabs_of_a_list_that_was_narrowed_count_what_it_shows(admin_client, monkeypatch):
    monkeypatch.setattr(change_list.JobChangeList, "statement_limit", timedelta(milliseconds=1))
    monkeypatch.setattr(change_list.JobChangeList, "newest_rows", 1)
    with connection.cursor() as cursor:
        cursor.execute(insert_jobs("generate_series(1, 20000)", args="jsonb_build_array(repeat('x', 1000))"))
    make_job(State.FAILED)
    response = admin_client.get(f"{LIST}?q=needle")
    assert response.context["cl"].scope is not None
    assert tabs(response)["ready"] == "0"


def counted_in(browser, query):
    """The tabs, and how many statements counted them."""
    with CaptureQueriesContext(connection) as queries:
        response = browser.get(f"{LIST}?{query}")
    return tabs(response), sum("AS counted" in each["sql"] for each in queries)


def test_of_a_filter_those_that_succeeded_are_not_counted_twice(admin_client):
    for state, number in {State.SUCCEEDED: 4, State.FAILED: 2, State.READY: 1}.items():
        for _ in range(number):
            make_job(state, queue="ai")
        make_job(state, queue="mail")
    for query in ("queue=ai", "queue=ai&state__exact=succeeded"):
        counts, statements = counted_in(admin_client, query)
        assert [counts[state] for state in ("succeeded", "failed", "ready", "held")] == ["4", "2", "1", "0"]
        assert statements == 1
    counts, statements = counted_in(admin_client, "queue=ai&state__exact=failed")
    assert (counts["succeeded"], counts["failed"], statements) == ("4", "2", 2)


def test_of_more_than_the_list_counts_those_that_succeeded_are_counted_for_themselves(
    admin_client, monkeypatch
):
    monkeypatch.setattr(CappedPaginator, "counted_at_most", 5)
    for state in (State.SUCCEEDED, State.FAILED):
        for _ in range(4):
            make_job(state, queue="ai")
    counts, statements = counted_in(admin_client, "queue=ai")
    assert (counts["succeeded"], counts["failed"], statements) == ("4", "4", 2)


def test_counts_of_what_cannot_be_are_zero():
    make_job()
    rows = {"none": Job.objects.none(), "all": Job.objects.all(), "never": Job.objects.filter(pk__in=[])}
    assert capped_counts("default", rows) == {"none": 0, "all": 1, "never": 0}
    assert capped_counts("default", {"none": Job.objects.none()}) == {"none": 0}


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("", "Jobs"),
        ("?state__exact=failed", "Failed jobs"),
        ("?state__exact=ready&queue=ai&task=shop.mail.send", "Ready jobs: queue ai, task send"),
        ("?late=60", "Jobs: late for more than 1\xa0min"),
        ("?state__exact=running&stuck=lease", "Running jobs: stuck after the end of its lease"),
        ("?time=finished-day", "Jobs: finished in the last day"),
        ("?state__exact=held&held_by=budget:p:1", "Held jobs: held by budget:p:1"),
        ("?state__exact=retrying", "Retrying jobs"),
        ("?state__exact=asks-person&queue=ai", "Jobs that ask a person: queue ai"),
        ("?q=needle", "Jobs: with “needle”"),
        ("?state__exact=mystery", "Jobs"),
    ],
)
def test_title_and_breadcrumbs_say_which_jobs_are_listed(admin_client, query, title):
    page = admin_client.get(LIST + query).text
    assert f"<title>{title} | " in page
    assert re.search(rf'<li aria-current="page">{re.escape(title)}</li>', page)
