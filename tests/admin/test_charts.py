"""The bars of a chart: where they stand, that none of them is too small to be seen, and where a click on one leads."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as some

from pgonly_django.admin.charts import HEIGHT, SMALLEST, WIDTH, nice, stacked
from pgonly_django.models import JobStats, State
from pgonly_django.models.job_stats import NUMBERS
from tests.admin.conftest import make_job
from tests.queue.rows import ago

HOME = "/admin/pgonly_django/overview/more/"
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("number", "expected"), [(0, 1), (1, 1), (3, 5), (11, 20), (200, 200), (201, 500), (10**9 + 1, 2 * 10**9)]
)
def test_the_upper_edge_is_a_round_number(number, expected):
    assert nice(number) == expected


def test_one_failure_among_ten_thousand_is_seen():
    numbers = [1, *[0] * (len(NUMBERS) - 2), 9_999]
    failed, succeeded = stacked(NUMBERS, numbers, 0.0, WIDTH, 10_000)
    assert (failed["kind"], succeeded["kind"]) == ("failed", "succeeded")
    assert float(failed["height"]) == SMALLEST
    assert float(succeeded["y"]) + float(succeeded["height"]) == pytest.approx(float(failed["y"]), abs=0.02)


def test_where_nothing_ended_there_is_no_bar():
    assert stacked(NUMBERS, [0] * len(NUMBERS), 0.0, WIDTH, 1) == []


@given(some.tuples(*[some.integers(0, 10**7)] * len(NUMBERS)), some.integers(0, 59))
def test_no_bar_leaves_the_chart_or_overlaps_another(numbers, place):
    width = WIDTH / 60
    lower = HEIGHT
    for rect in stacked(NUMBERS, numbers, place * width, width, nice(sum(numbers))):
        left, y, across, height = (float(rect[name]) for name in ("x", "y", "width", "height"))
        assert place * width - 0.02 <= left <= (place + 1) * width - across + 0.02
        assert y >= 0
        assert y + height <= lower + 0.02
        lower = y


def links_of_bars(html: str) -> list[str]:
    return [unescape(link) for link in re.findall(r'<a href="([^"]*)" tabindex="-1"><title>', html)]


@pytest.mark.django_db
@pytest.mark.parametrize("use_tz", [True, False])
def test_a_click_on_a_bar_opens_the_jobs_that_finished_in_its_time(admin_client, settings, use_tz):
    settings.USE_TZ, settings.TIME_ZONE = use_tz, "Asia/Kathmandu"
    at = (timezone.now() - 7 * MINUTE).replace(second=30)
    JobStats.objects.create(
        granularity="minute", starts_at=at.replace(second=0, microsecond=0), queue="ai", task="tests.jobs.add",
        succeeded=1, waiting_times=[0, 0, 1],
    )  # fmt: skip
    job = make_job(State.SUCCEEDED, finished_at=at)
    for other in (at - MINUTE, at + MINUTE):
        make_job(State.SUCCEEDED, finished_at=other)
    links = links_of_bars(admin_client.get(HOME).text)
    assert len(links) == 2  # of runs that ended, and of how long they waited
    for link in links:
        listed = admin_client.get(link).context["cl"].result_list
        assert [row.pk for row in listed] == [job.pk]


@pytest.mark.django_db
def test_a_run_whose_worker_counted_it_late_is_among_the_jobs_of_the_bar(admin_client):
    start = ago(5 * MINUTE).replace(second=0, microsecond=0)
    stats = {"granularity": "minute", "queue": "ai", "task": "tests.jobs.add", "succeeded": 1}
    JobStats.objects.create(starts_at=start, **stats)
    job = make_job(State.SUCCEEDED, finished_at=start - timedelta(seconds=12))
    (link,) = links_of_bars(admin_client.get(HOME).text)
    assert [row.pk for row in admin_client.get(link).context["cl"].result_list] == [job.pk]


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["succeeded", "failed", "retried", "interrupted"])
def test_only_a_bar_with_ended_jobs_opens_a_list_and_says_of_which_jobs(admin_client, kind):
    stats = {"granularity": "minute", "queue": "ai", "task": "tests.jobs.add", kind: 40}
    JobStats.objects.create(starts_at=ago(5 * MINUTE), waiting_times=[40], **stats)
    html = admin_client.get(HOME).text.partition('class="pgonly-overview"')[2]
    assert html.count("<title>") == 2  # of two bars
    has_links = kind in ("succeeded", "failed")
    assert len(links_of_bars(html)) == 2 * has_links
    assert html.count("Opens the jobs that finished then.</title>") == 2 * has_links
    assert html.count('title="Opens the jobs that finished then."') == 2 * has_links


@pytest.mark.django_db
def test_a_bar_of_who_may_not_see_jobs_is_on_no_page_of_his(client, person):
    stats = {"granularity": "minute", "queue": "ai", "task": "tests.jobs.add", "succeeded": 1}
    JobStats.objects.create(starts_at=ago(5 * MINUTE), **stats)
    person("view_queue")
    assert "<svg viewBox" not in client.get(HOME).text
    person("view_queue", "view_job")
    assert "<svg viewBox" in client.get(HOME).text


@pytest.mark.django_db
def test_the_chart_of_waits_has_the_percentiles_of_each_part_and_of_all(admin_client):
    stats = {"granularity": "minute", "queue": "ai", "task": "tests.jobs.add"}
    # Bucket 0 is up to 1 ms, bucket 20 from 724 ms to 1.02 s.
    JobStats.objects.create(starts_at=ago(5 * MINUTE), succeeded=10, waiting_times=[10], **stats)
    JobStats.objects.create(starts_at=ago(9 * MINUTE), succeeded=90, waiting_times=[0] * 20 + [90], **stats)
    html = admin_client.get(HOME).text
    panel = html[html.index('id="panel-latency"') : html.index('id="panel-times"')]
    assert "≈\xa0500\xa0µs p50, ≈\xa0950\xa0µs p95. Opens the jobs that finished then.</title>" in panel
    assert re.search(r"<strong>≈\s\d{3}\sms</strong> p50", panel)
    assert re.search(r"<strong>≈\s[\d.]+\sm?s</strong> p95", panel)
    assert panel.count('class="pgonly-bar pgonly-p95"') == 2
