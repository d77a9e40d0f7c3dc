"""The job list."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from uuid import uuid4

import pytest
from django.db import connection
from django.test.testcases import DatabaseOperationForbidden
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django.admin.formats import NO_BREAK
from pgonly_django.admin.jobs.change_list import JobChangeList
from pgonly_django.admin.paging import CappedPaginator
from pgonly_django.database.connect import connect
from pgonly_django.models import CostEntry, Job, State, Step
from tests.admin.conftest import LIST, make_job, page_of
from tests.aliases import alias
from tests.queue.rows import insert_jobs, make_worker

pytestmark = pytest.mark.django_db


def cells(response, name):
    """The inner HTML of one column, row by row, with plain spaces."""
    pattern = rf'<t[dh] [^>]*class="field-{name}[^"]*"[^>]*>(.*?)</t[dh]>'
    return re.findall(pattern, response.text.replace(NO_BREAK, " "), re.DOTALL)


def test_the_newest_job_comes_first(admin_client):
    jobs = [make_job() for _ in range(3)]
    assert list(admin_client.get(LIST).context["cl"].result_list) == jobs[::-1]


@pytest.mark.parametrize("state", State.values)
def test_every_state_has_its_own_badge(admin_client, state):
    make_job(state)
    (badge,) = cells(admin_client.get(LIST), "state_badge")
    assert f"pgonly-badge pgonly-{state}" in badge
    assert str(State(state).label) in badge


def test_a_job_that_is_retried_says_which_attempt_comes_when(admin_client):
    errors = [{"outcome": "failed", "attempt": 6}]
    soon = timezone.now() + timedelta(minutes=4, seconds=30)
    job = make_job(State.SCHEDULED, attempt=6, max_attempts=8, errors=errors, run_at=soon)
    (badge,) = cells(admin_client.get(LIST), "state_badge")
    (time,) = cells(admin_client.get(LIST), "time_cell")
    assert ">Retrying</span>" in badge
    assert "in 4 min" in time
    assert ">attempt 7 of 8</span>" in time
    assert 'pgonly-retrying" title="">Retrying<' in admin_client.get(page_of(job)).text


def test_a_task_is_named_shortly_and_leads_to_its_job_and_back_to_the_same_list(admin_client):
    job = make_job(queue="ai", task="shop.mail.send_receipt")
    (cell,) = cells(admin_client.get(f"{LIST}?queue=ai"), "task_name")
    assert f'href="{LIST}{job.pk}/change/?_changelist_filters=queue%3Dai"' in cell
    assert f'title="shop.mail.send_receipt {job.pk}">send_receipt</a>' in cell


def test_progress_is_a_bar_with_percentage_figures_and_message(admin_client):
    make_job(State.RUNNING, progress={"done": 412, "total": 1000, "message": "paper\n412"})
    (cell,) = cells(admin_client.get(LIST), "progress_cell")
    assert '<progress class="pgonly-progress" value="412" max="1000">41%</progress> 41 %' in cell
    assert 'title="412 / 1,000 · paper 412">412 / 1,000 · paper 412<' in cell


def test_progress_of_no_total_is_a_figure_and_that_of_a_job_that_succeeded_is_gone(admin_client):
    make_job(State.RUNNING, progress={"done": 7, "total": None, "message": "reading"})
    make_job(State.SUCCEEDED, progress={"done": 7, "total": 7, "message": ""})
    found = cells(admin_client.get(LIST), "progress_cell")
    assert found == ["", '<span class="pgonly-line" title="7 · reading">7 · reading</span>']


@pytest.mark.parametrize(
    ("state", "moments", "first", "second"),
    [
        (State.READY, {"ready_at": {"minutes": 7, "seconds": 3}}, "waits 7 min", None),
        (
            State.RUNNING,
            {"attempted_at": {"minutes": 3, "seconds": 5}, "ready_at": {"minutes": 3, "seconds": 9}},
            "for 3 min",
            "waited 4 s",
        ),
        (State.RUNNING, {"attempted_at": {"minutes": 3}, "ready_at": {"minutes": 1}}, "for 3 min", None),
        (State.SCHEDULED, {"run_at": {"minutes": 5, "seconds": 2}}, "late by 5 min", None),
        (State.SCHEDULED, {"run_at": {"minutes": -125, "seconds": -30}}, "in 2 h 5 min", None),
        (State.HELD, {}, "by a person", None),
        (
            State.SUCCEEDED,
            {"attempted_at": {"minutes": 2, "seconds": 4}, "finished_at": {"minutes": 1, "seconds": 4}},
            "1 min ago",
            None,
        ),
    ],
)
def test_the_time_that_matters_is_told_for_each_state(admin_client, state, moments, first, second):
    now = timezone.now()
    make_job(state, **{name: now - timedelta(**since) for name, since in moments.items()})
    (cell,) = cells(admin_client.get(LIST), "time_cell")
    before, _, aside = cell.partition("pgonly-quiet")
    assert first in before
    assert (second or "") in aside
    assert bool(aside) is bool(second)


def test_when_a_job_was_enqueued_is_told_in_one_unit_with_the_exact_time_on_hover(admin_client):
    moment = timezone.now() - timedelta(hours=2, minutes=5)
    make_job(enqueued_at=moment)
    (cell,) = cells(admin_client.get(LIST), "enqueued")
    assert f'title="{timezone.localtime(moment):%Y-%m-%d %H:%M:%S}">2 h ago</time>' in cell


def test_a_worker_is_named_and_leads_to_its_jobs(admin_client):
    worker = make_worker(name="host:1 <b>")
    make_job(State.RUNNING, worker_id=worker.pk)
    gone = make_job(State.FAILED, worker_id=uuid4())
    make_job()
    name = "host:1 &lt;b&gt;"
    assert cells(admin_client.get(LIST), "worker") == [
        "",
        f'<a href="?worker={gone.worker_id}" title="unknown">unknown</a>',
        f'<a href="?worker={worker.pk}" title="{name}">{name}</a>',
    ]


def test_a_column_that_no_job_of_the_page_has_anything_in_is_left_out(admin_client):
    make_job()
    plain = admin_client.get(LIST)
    assert "column-attempts" in plain.text
    for name in ("worker", "progress_cell", "cost"):
        assert f"column-{name}" not in plain.text
    job = make_job(State.RUNNING, progress={"done": 1, "total": 2})
    CostEntry.objects.create(job_id=job.pk, usd=1)
    both = admin_client.get(LIST)
    for name in ("worker", "progress_cell", "cost"):
        assert f"column-{name}" in both.text


def test_what_a_job_has_cost_is_the_sum_of_its_calls(admin_client):
    job, _free = make_job(), make_job()
    for usd in ("0.07", "0.03"):
        CostEntry.objects.create(job_id=job.pk, usd=usd)
    CostEntry.objects.create(usd=5)
    free, costly = cells(admin_client.get(LIST), "cost")
    assert free == ""
    assert "$0.10" in costly


def test_a_list_whose_costs_take_too_long_to_add_up_has_its_jobs_without_that_column(
    admin_client, monkeypatch
):
    monkeypatch.setattr("pgonly_django.admin.jobs.cells.COSTS_LIMIT", timedelta(milliseconds=50))
    monkeypatch.setattr(JobChangeList, "statement_limit", timedelta(milliseconds=500))
    job = make_job()
    with connect("default", application_name="pgonly tests") as other, other.transaction():
        other.execute("LOCK TABLE pgonly_cost IN ACCESS EXCLUSIVE MODE")
        response = admin_client.get(LIST)
    assert [row.pk for row in response.context["cl"].result_list] == [job.pk]
    assert "column-cost" not in response.text


class CostsElsewhere:
    def db_for_read(self, model, **hints):
        return "costs" if model is CostEntry else None


def test_costs_are_read_from_the_database_that_the_router_names(admin_client, settings):
    make_job()
    settings.DATABASE_ROUTERS = [CostsElsewhere()]
    with (
        alias("costs"),
        pytest.raises(DatabaseOperationForbidden, match="'costs'"),
    ):  # a test has "default" alone
        admin_client.get(LIST)


def test_who_may_not_see_costs_sees_none_in_the_list_nor_on_the_page_of_a_job(client, person):
    job = make_job()
    Step.objects.create(job=job, name="ask", usd="0.07", tokens_in=900)
    CostEntry.objects.create(job_id=job.pk, usd="0.07", tokens_in=900)
    person("view_job")
    for page in (LIST, page_of(job)):
        assert not re.search(r"\$|900 tokens", client.get(page).text)
    person("view_job", "view_costentry")
    for page in (LIST, page_of(job)):
        assert "$0.07" in client.get(page).text


def run_of(seconds, outcome="failed"):
    """A run's entry, which began four minutes ago."""
    began = timezone.now() - timedelta(minutes=4)
    ended = began + timedelta(seconds=seconds)
    return {"outcome": outcome, "started_at": began.isoformat(), "finished_at": ended.isoformat()}


DISCARDED = {"outcome": "discarded", "finished_at": "2026-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("state", "errors", "said"),
    [
        (State.FAILED, [run_of(0.003)], "3 ms"),
        (State.FAILED, [run_of(0.003), DISCARDED], None),
        (State.CANCELLED, [run_of(0.003)], "3 ms"),
        (State.CANCELLED, [], None),
        (State.SUCCEEDED, [run_of(0.003)], "4 min"),
    ],
)
def test_what_a_run_took_does_not_count_the_wait_for_a_person(admin_client, state, errors, said):
    ago = timezone.now() - timedelta(minutes=4)
    make_job(state, errors=errors, attempted_at=ago, finished_at=timezone.now())
    assert cells(admin_client.get(LIST), "took") == ([said] if said else []), (
        "empty: the page has no such column"
    )


def test_attempts_are_shown_with_what_interrupted_them(admin_client):
    make_job(State.READY, attempt=2, max_attempts=4, interruptions=1, crashes=2)
    (attempts,) = cells(admin_client.get(LIST), "attempts")
    assert attempts.startswith("2/4")
    assert ">1 interruption, 2 crashes<" in attempts


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


LONG = "The server answered 429 Too Many Requests: " + " ".join(f"word{number}" for number in range(60))


def test_a_long_reason_stands_in_one_line_and_is_there_in_full_on_hover(admin_client):
    make_job(State.FAILED, errors=[{"exception": "httpx.HTTPStatusError", "message": f"\n{LONG}"}])
    (cell,) = cells(admin_client.get(LIST), "task_name")
    whole = f"HTTPStatusError: {LONG}"
    assert f'<span class="pgonly-quiet" title="{whole}">{whole[:299]}…</span>' in cell


def test_arguments_are_shown_as_in_a_call_with_secrets_masked(admin_client):
    make_job(args=[1, 2], kwargs={"b": "x", "api_key": "sk-1", "more": {"token": "t", "c": 1}})
    (cell,) = cells(admin_client.get(LIST), "arguments")
    assert unescape(cell) == (
        '<span class="pgonly-line" title="{0}">{0}</span>'.format(
            '1, 2, b="x", more={"c": 1, "token": ••••••}, api_key=••••••'
        )
    )


def test_arguments_of_a_task_that_is_gone_are_masked_where_they_have_no_name(admin_client):
    make_job(task="gone.away", args=["sk-1"], kwargs={"b": 1})
    assert "••••••, b=1" in cells(admin_client.get(LIST), "arguments")[0]


def test_each_argument_is_shortened_and_large_ones_are_named_by_their_size(admin_client):
    make_job(kwargs={"text": "y" * 3000, "n": 1})
    make_job(kwargs={"text": "z" * 200_000})  # which is small once it is compressed
    with connection.cursor() as cursor:
        random = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) AS n)"
        cursor.execute(insert_jobs("generate_series(1, 1)", args=f"jsonb_build_array({random})"))
    found = [unescape(cell) for cell in cells(admin_client.get(LIST), "arguments")]
    assert sum("too large for the list" in cell for cell in found) == 2
    assert any(f'n=1, text="{"y" * 58}…' in cell for cell in found)
    assert "zzz" not in "".join(found)


def test_without_the_permission_to_see_data_the_list_has_neither_arguments_nor_messages(client, person):
    run = {"outcome": "failed", "started_at": "2026-01-01"}
    raised = {**run, "exception": "a.SecretError", "message": "sk-1"}
    make_job(State.FAILED, kwargs={"b": "sk-1"}, errors=[raised])
    make_job(State.FAILED, errors=[{**run, "outcome": "discarded", "reason": "sk-1 is wrong"}])
    make_job(State.RUNNING, progress={"done": 1, "total": 2, "message": "sk-1"})
    make_job(State.FAILED, errors=[{"outcome": "discarded", "reason": "Discarded by a person."}])
    person("view_job")
    response = client.get(LIST)
    assert "sk-1" not in response.text
    assert cells(response, "arguments") == []
    by_person, _running, _task, error = cells(response, "task_name")
    assert "Discarded by a person." in by_person
    assert "SecretError" in error
    person("view_job", "view_job_data")
    assert "sk-1 is wrong" in client.get(LIST).text


def test_large_columns_are_not_read_for_the_list(admin_client):
    make_job(State.SUCCEEDED, result={"large": 1}, kwargs={"large": 1}, log=[{"text": "large"}])
    (job,) = admin_client.get(LIST).context["cl"].result_list
    assert {"args", "kwargs", "result", "errors", "log"} <= job.get_deferred_fields()


def test_the_list_refreshes_itself_and_its_form_does_not(admin_client):
    make_job()
    page = admin_client.get(LIST).text
    assert '<div data-live-root data-refresh-seconds="5">' in page
    assert re.findall('data-live="([^"]*)"', page) == ["tabs", "all", "results", "pagination"]
    form = page[page.index("pgonly-filters") : page.index('data-live="all"')]
    assert "data-live" not in form


def test_pages_are_linked_and_reached(admin_client):
    Job.objects.bulk_create(Job(task=f"shop.task_{number}") for number in range(120))
    assert 'href="?p=3"' in admin_client.get(LIST).text
    assert len(admin_client.get(f"{LIST}?p=3").context["cl"].result_list) == 20


def test_a_count_beyond_the_cap_is_shown_as_such(admin_client, monkeypatch):
    monkeypatch.setattr(CappedPaginator, "counted_at_most", 2)
    make_job(), make_job()
    assert " 2 jobs" in admin_client.get(LIST).text
    make_job()
    assert " 2+ jobs" in admin_client.get(LIST).text


def test_the_count_does_not_read_what_only_a_page_shows(admin_client):
    make_job(State.FAILED, errors=[{"message": "large"}])
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(LIST)
    (count,) = [query["sql"] for query in queries if "COUNT(" in query["sql"]]
    assert "errors" not in count


def test_metadata_stands_behind_the_arguments_with_secrets_masked_and_without_trace_headers(admin_client):
    trace = {"traceparent": "00-1", "baggage": "a=b", "sentry-trace": "2"}
    make_job(args=[1], metadata={"tenant": "acme", "api_token": "sk-1", **trace})
    make_job(args=[1], metadata=trace)
    found = [unescape(cell) for cell in cells(admin_client.get(LIST), "arguments")]
    assert [re.sub("<.*?>", "", cell) for cell in found] == ["1", '1 · tenant="acme", api_token=••••••']
