"""Costs in the admin: each call, and their sums by day, model, task, queue and budget."""

from __future__ import annotations

import re
from datetime import date, timedelta
from decimal import Decimal
from html import unescape

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django.admin import formats, sums
from pgonly_django.admin.sums import start_of_today
from pgonly_django.models import CostEntry
from tests.admin.conftest import make_job
from tests.admin.jobs.test_cells import cells

pytestmark = pytest.mark.django_db(transaction=True)
COSTS = "/admin/pgonly_django/costentry/"
SUMS, CALLS = f"{COSTS}sums/", f"{COSTS}?days=90"
ROW = re.compile(
    r"<tr><td [^>]*><a [^>]*>([^<]*)</a><div><progress .*?</progress></div></td>"
    r"<td [^>]*>(.*?)</td><td [^>]*>(\d+)</td></tr>"
)
TOKENS = re.compile(r"<span [^>]*>(.*?)</span>")


def sums_in(page):
    """Name, cost and calls of each group, table by table."""
    return [(name, TOKENS.sub(r", \1", cost), int(calls)) for name, cost, calls in ROW.findall(page)]


@pytest.mark.parametrize(
    ("usd", "shown", "exact"),
    [
        ("0.103042", "$0.10", "$0.103042"),
        ("1234.5678", "$1,234.57", "$1,234.5678"),
        ("0.0096", "$0.01", "$0.0096"),
        ("0.000413", "$0.0004", "$0.000413"),
        ("0.005", "$0.005", ""),
        ("2", "$2.00", ""),
        ("0", "$0.00", ""),
    ],
)
def test_an_amount_is_shown_in_cents_and_exactly_on_hover(usd, shown, exact):
    html = f'<span title="{exact}">{shown}</span>' if exact else shown
    assert formats.money(Decimal(usd)) == html
    assert formats.money(Decimal(usd), 900, 7) == f"{html} (900 tokens in, 7 out)"


def test_the_list_of_costs_shows_each_call_with_its_job(admin_client):
    job = make_job()
    of = {"job_id": job.pk, "task": "shop.ask", "queue": "ai", "budget": "p", "step": "first"}
    CostEntry.objects.create(**of, usd="0.013", tokens_in=900, tokens_out=7)
    CostEntry.objects.create(usd="0.02", budget="p", is_estimate=True)
    response = admin_client.get(CALLS)
    tokens = '<span class="pgonly-second">900 tokens in, 7 out</span>'
    assert cells(response, "cost")[1] == f'<span title="$0.013">$0.01</span>{tokens}'
    assert "Not reported" in cells(response, "cost")[0]
    assert f"job/{job.pk}/change/" in cells(response, "task")[1]
    assert "first" in cells(response, "task")[1]


def test_the_page_of_a_cost_shows_time_amount_and_job_as_the_list_does(admin_client):
    job = make_job()
    entry = CostEntry.objects.create(job_id=job.pk, task="shop.ask", usd="0.013", tokens_in=900, tokens_out=7)
    html = admin_client.get(f"{COSTS}{entry.pk}/change/").text
    assert formats.exact(entry.at) in html
    assert formats.money_above_tokens(Decimal("0.013"), 900, 7) in html
    assert f'href="/admin/pgonly_django/job/{job.pk}/change/"' in html


def test_the_heading_of_a_cost_names_amount_and_task_as_other_pages_do(admin_client):
    entry = CostEntry.objects.create(usd="0.00011", task="shop.tasks.ask")
    assert (
        "<h2>$0.00011 for ask</h2>"
        in admin_client.get(f"/admin/pgonly_django/costentry/{entry.pk}/change/").text
    )


def test_costs_are_found_by_a_budget_or_a_job_and_narrowed_to_the_last_days(admin_client):
    job = make_job()
    for budget in ("p", "p", "q"):
        CostEntry.objects.create(usd=1, budget=budget)
    CostEntry.objects.create(usd=1, job_id=job.pk, at=timezone.now() - timedelta(days=3))
    found = {"q=p": 2, "q=q": 1, "q=nothing": 0, f"q={job.pk}": 1, "days=1": 3, "days=7": 4}
    for query, count in found.items():
        assert len(admin_client.get(f"{COSTS}?{query}").context["cl"].result_list) == count, query


def spend(usd, days_ago=0, seconds=1, **facts):
    at = start_of_today() - timedelta(days=days_ago) + timedelta(seconds=seconds)
    return CostEntry.objects.create(usd=usd, at=at, **facts)


def test_costs_are_added_up_by_model_task_queue_and_budget(admin_client):
    spend("1.5", model="large", task="shop.ask", queue="ai", budget="p", tokens_in=10)
    spend("0.5", model="small", task="shop.ask", queue="ai", budget="q", tokens_in=5)
    spend("0.25", task="shop.embed", queue="ai")
    page = admin_client.get(SUMS).text
    assert "<strong>$2.25 (15 tokens in, 0 out)</strong> <a" in page
    assert ">in 3 calls</a>" in page
    assert sums_in(page) == [
        ("large", "$1.50, 10 tokens in, 0 out", 1),
        ("small", "$0.50, 5 tokens in, 0 out", 1),
        ("-", "$0.25", 1),
        ("ask", "$2.00, 15 tokens in, 0 out", 2),
        ("embed", "$0.25", 1),
        ("ai", "$2.25, 15 tokens in, 0 out", 3),
        ("p", "$1.50, 10 tokens in, 0 out", 1),
        ("q", "$0.50, 5 tokens in, 0 out", 1),
        ("-", "$0.25", 1),
    ]
    assert 'title="shop.ask"' in page


def test_costs_open_on_the_sums_whose_rows_lead_to_their_calls(admin_client):
    for seconds, model in enumerate(("large", "large", "")):
        spend(1, seconds=seconds, model=model, task="shop.ask", queue="ai", budget="p")
    spend(1, days_ago=1, model="large", task="shop.ask", queue="ai", budget="p")
    spend(1, days_ago=40, model="large")
    assert "By model" in admin_client.get(COSTS).text
    page = admin_client.get(f"{SUMS}?days=7").text
    links = {text: unescape(url) for url, text in re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', page)}
    today = f"{start_of_today():%Y-%m-%d}"
    for text, calls in {"large": 3, "-": 1, "ask": 4, "in 4 calls": 4, today: 3}.items():
        assert len(admin_client.get(links[text]).context["cl"].result_list) == calls, text


def test_each_choice_of_a_time_shows_calls(admin_client):
    spend(1)
    choices = re.findall(r'<a href="(\?[^"]*days[^"]*)"', admin_client.get(CALLS).text)
    assert choices == ["?days=1", "?days=7", "?days=30", "?days=90"]


def test_an_axis_of_one_day_names_it_once(admin_client):
    spend(1)
    assert sums.Sums(CostEntry.objects.all(), lambda **_query: "").chart(date(2026, 3, 1), date(2026, 3, 1))[
        "marks"
    ] == ["2026-03-01"]


def test_without_the_name_of_a_model_there_are_no_sums_by_model(admin_client):
    spend(1, task="shop.ask")
    page = admin_client.get(SUMS).text
    assert "By task" in page
    assert "By model" not in page
    assert "all calls" in page
    assert "other calls" not in page


def test_the_chart_has_a_bar_for_each_day_and_a_colour_for_each_of_the_dearest_models(admin_client):
    for number, model in enumerate(("a", "b", "c", "d", "e")):
        spend(5 - number, days_ago=2, model=model)
    spend(8, model="a")
    response = admin_client.get(f"{SUMS}?days=7")
    chart = response.context["figures"]
    bars = re.findall(r"<a href[^>]*><title>.*?</a>", response.text)
    kinds = [re.findall(r"pgonly-bar pgonly-(\w+)", bar) for bar in bars]
    every = ["running", "succeeded", "scheduled", "held", "other"]
    assert kinds == [["area", *every], ["area", "running"]]
    assert [kind[1:] for kind in chart["series"]] == [
        ("a", "$13.00"), ("b", "$4.00"), ("c", "$3.00"), ("d", "$2.00"), ("other calls", "$1.00"),
    ]  # fmt: skip
    today = f"{start_of_today():%Y-%m-%d}"
    assert f"<title>{today}, $8.00 a, $0.00 b," in response.text
    assert chart["top"] == "$20.00"
    assert chart["marks"][-1] == today


def test_the_page_begins_with_the_running_month_and_offers_the_last_days(admin_client):
    month = start_of_today().day
    spend(1, days_ago=month - 1, task="shop.first_day")
    spend(1, days_ago=month, task="shop.month_before")
    spend(1, days_ago=6, task="shop.week")
    spend(1, days_ago=29, task="shop.thirty")
    spend(1, days_ago=30, task="shop.older")
    for query in ("", "?days=nonsense", "?days=0", "?days="):
        page = admin_client.get(f"{SUMS}{query}").text
        assert "shop.first_day" in page
        assert "shop.month_before" not in page
    assert "shop.week" in admin_client.get(f"{SUMS}?days=7").text
    assert "shop.thirty" not in admin_client.get(f"{SUMS}?days=7").text
    assert "shop.thirty" in admin_client.get(f"{SUMS}?days=30").text
    assert "shop.older" not in admin_client.get(f"{SUMS}?days=30").text
    assert "shop.older" in admin_client.get(f"{SUMS}?days=90").text


def test_without_costs_the_page_says_so(admin_client):
    assert "No costs." in admin_client.get(SUMS).text


def test_sums_that_take_too_long_are_those_of_the_newest_calls_until_a_person_asks_for_all(
    admin_client, monkeypatch
):
    for usd in (1, 2, 4):
        spend(usd, seconds=usd, task="shop.ask")
    monkeypatch.setattr(sums, "NEWEST", 2)
    monkeypatch.setattr(sums, "QUICK_LIMIT", timedelta(milliseconds=30))
    monkeypatch.setattr(sums, "_read", slow_for(3, sums._read))
    page = admin_client.get(SUMS).text
    assert "these are the sums of the newest 20,000 calls" in page
    assert "<strong>$6.00</strong>" in page
    (address,) = re.findall(r'href="([^"]*\?all=1[^"]*)"', page)
    page = admin_client.get(unescape(address)).text
    assert "newest 20,000" not in page
    assert "<strong>$7.00</strong>" in page


def test_a_month_in_which_no_call_had_a_cost_says_nothing_of_runs(admin_client):
    spend(0, tokens_in=10)
    page = admin_client.get(SUMS).text
    assert "$0.00" in page
    assert "No run ended" not in page


def slow_for(count, read):
    """PostgreSQL is busy for longer than the page waits where so many costs are read."""

    def slow(entries, **options):
        if entries.count() == count:
            entries = entries.extra(where=["pg_sleep(0.05) IS NOT NULL"])
        return read(entries, **options)

    return slow


def test_days_are_those_of_the_readers_time_zone():
    with timezone.override("Pacific/Auckland"):
        today = start_of_today()
        spend(1)
        (row,) = sums.Sums(CostEntry.objects.all(), lambda **_query: "").rows
    assert row["day"] == today.date()


MANY = """
INSERT INTO pgonly_cost (at, task, queue, budget, model, usd)
SELECT now() - n * interval '6 minutes', 'shop.task_' || n % 40, 'queue ' || n % 20, 'p' || n, 'm' || n % 3, 0.01
FROM generate_series(1, 20000) AS n
"""


def test_the_sums_of_some_days_read_the_costs_of_these_and_sort_none():
    week = CostEntry.objects.filter(at__gte=start_of_today() - timedelta(days=6)).order_by()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(MANY)
        cursor.execute("ANALYZE pgonly_cost")
        with CaptureQueriesContext(connection) as queries:
            sums._read(week)
        plans = []
        for query in queries.captured_queries[1:]:  # the first one sets what holds for the others
            cursor.execute(f"EXPLAIN {query['sql']}")
            plans.append(" ".join(line for (line,) in cursor.fetchall()))
        transaction.set_rollback(True)
    assert len(plans) == 2
    for plan in plans:
        assert "pgonly_cost_at" in plan
        assert "HashAggregate" in plan
