"""Failed jobs among what needs attention: in groups, with a page that retries each, until they are marked as seen."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.contrib.admin import AdminSite, site
from django.urls import path

from pgonly_django.admin.formats import exact_time
from pgonly_django.models import Job, State
from tests.admin.conftest import make_job
from tests.admin.overview.test_overview import PAGE, panels, words
from tests.queue.rows import ago, make_worker

pytestmark = pytest.mark.django_db
SEEN = f"{PAGE}overview/seen/"


MOMENTS = {"started_at": "2026-12-01T00:00:00+00:00", "finished_at": "2026-12-01T00:00:01+00:00"}


def failed(error="shop.Refused", minutes=5.0, message="patient 4711", **facts):
    entry = {"outcome": "failed", "exception": error, "message": message, **MOMENTS}
    at = ago(timedelta(minutes=minutes))
    return make_job(State.FAILED, errors=[entry], finished_at=at, **facts)


def alerts(client):
    return panels(client.get(PAGE))["alerts"]


def retry_links(html):
    return [unescape(link) for link in re.findall(r'pgonly-button-retry" href="([^"]*)"', html)]


def mark_as_seen(client):
    (newest_at,) = re.findall(r'name="newest_at" value="([^"]*)"', alerts(client))
    return client.post(SEEN, {"newest_at": newest_at})


def test_one_failed_job_needs_attention(admin_client):
    failed()
    text = words(alerts(admin_client))
    assert re.search(r"1 job of add failed \(Refused\), 5 min( \d+ s)? ago\.", text)
    assert "Failures of the last 24 hours." in text
    assert "Newest: Refused: patient 4711" in text


def test_the_newest_error_of_a_group_is_shown_to_who_may_see_data(admin_client, client, person):
    failed(minutes=9, message="old")
    failed(minutes=2, message="new")
    text = words(alerts(admin_client))
    assert "Newest: Refused: new" in text
    assert "old" not in text
    client.force_login(person("view_job"))
    text = words(alerts(client))
    assert "Newest: Refused" in text
    assert "new" not in text


def retrying(attempt=1, message="", **facts):
    entry = {"outcome": "failed", "exception": "httpx.ConnectError", "message": message, **MOMENTS}
    facts = {"attempt": attempt, "max_attempts": 8, "errors": [entry], **facts}
    return make_job(State.SCHEDULED, run_at=ago(timedelta(minutes=-4)), **facts)


def test_jobs_that_fail_again_and_again_and_are_retried_need_attention(admin_client):
    mine = [retrying(attempt) for attempt in (1, 6)]
    html = alerts(admin_client)
    assert "add: 2 jobs wait for another attempt; 6 of 8 are used." in words(html)
    assert "Newest: ConnectError" in words(html)
    link = unescape(re.search(r'<a href="([^"]*)">add: 2 jobs wait', html)[1])
    assert set(admin_client.get(link).context["cl"].result_list) == set(mine)


def test_a_job_that_waits_for_its_second_attempt_is_no_alert(admin_client):
    retrying(1), make_job(State.SCHEDULED, attempt=7, errors=[{"outcome": "released"}])
    make_job(State.SCHEDULED, run_at=ago(timedelta(minutes=-4)))
    assert "for another attempt" not in words(alerts(admin_client))
    retrying(2)
    assert "add: 2 jobs wait for another attempt" in words(alerts(admin_client))


def test_each_group_leads_to_its_jobs_and_to_the_page_that_retries_them(admin_client):
    mine = [failed(), failed()]
    failed("shop.Late"), failed(task="tests.jobs.other"), failed(minutes=25 * 60)
    html = alerts(admin_client)
    assert "2 jobs of add failed (Refused), the last one 5 min" in html
    link = unescape(re.search(r'<a href="([^"]*)">2 jobs of add failed \(Refused\)', html)[1])
    listed = admin_client.get(link).context["cl"].result_list
    assert {job.pk for job in listed} == {job.pk for job in mine}
    page = admin_client.get(next(link for link in retry_links(html) if "Refused" in link and "add" in link))
    assert "<strong>2</strong>" in page.text
    sent = {name: page.context[name] for name in ("count",)}
    data = {"action": "retry_jobs", "select_across": "1", "_selected_action": page.context["selected"][0]}
    admin_client.post(page.context["address"], {**data, **sent, "confirmed": "yes"})
    assert set(Job.objects.filter(state=State.READY)) == set(mine)
    assert "other failed (Refused), 5 min" in alerts(admin_client)  # of the other task
    assert "of add failed (Refused)" not in alerts(admin_client)


@pytest.mark.parametrize("use_tz", [True, False])
def test_what_is_marked_as_seen_is_not_listed_again_and_what_fails_later_is(admin_client, settings, use_tz):
    settings.USE_TZ, settings.TIME_ZONE = use_tz, "Asia/Kathmandu"
    job = failed()
    answer = mark_as_seen(admin_client)
    assert answer["Location"] == PAGE
    assert "Refused" not in alerts(admin_client)
    failed("shop.Late", minutes=1)
    text = words(alerts(admin_client))
    assert "1 job of add failed (Late)" in text
    assert "Refused" not in text
    assert f"Failures since {exact_time(job.finished_at)}, up to which you have marked them as seen" in text


def test_what_failed_while_nobody_looked_is_there_after_days(admin_client):
    failed(minutes=72 * 60)
    assert "Refused" not in alerts(admin_client)
    session = admin_client.session
    session["pgonly_failures_seen_at"] = (ago(timedelta(days=4))).timestamp()
    session.save()
    assert "1 job of add failed (Refused), 3 d ago." in words(alerts(admin_client))


def test_where_nothing_is_new_the_page_says_what_was_seen_and_what_is_tried_again(admin_client):
    make_worker()
    failed(), failed("shop.Late"), retrying(2)
    mark_as_seen(admin_client)
    html = alerts(admin_client)
    assert "Nothing new. 2 failed jobs are marked as seen. 1 job waits for another attempt." in words(html)
    for state, count in (("failed", 2), ("retrying", 1)):
        (link,) = [unescape(each) for each in re.findall(r'href="([^"]*)"', html) if state in each]
        assert admin_client.get(link).context["cl"].result_count == count
    Job.objects.all().delete()
    assert "Nothing. Failed jobs" in words(alerts(admin_client))


def test_a_mark_is_of_one_session(admin_client, admin_user, client):
    from django.test import Client

    failed()
    mark_as_seen(admin_client)
    other = Client()
    other.force_login(admin_user)
    assert "Refused" in alerts(other)


def test_many_groups_end_in_a_line_that_leads_to_all_of_them(admin_client, monkeypatch):
    monkeypatch.setattr("pgonly_django.admin.overview.alerts.GROUPS_SHOWN", 1)
    failed("shop.A"), failed("shop.B"), failed("shop.C", minutes=1)
    html = alerts(admin_client)
    link = unescape(re.search(r'<a href="([^"]*)">2 more groups of failed jobs', html)[1])
    assert admin_client.get(link).context["cl"].result_count == 3
    mark_as_seen(admin_client)
    assert "more groups" not in alerts(admin_client)


@pytest.mark.parametrize("newest_at", ["", "x", "nan", "inf", "-1", "1e300", "0"])
def test_a_mark_that_is_no_time_changes_nothing(admin_client, newest_at):
    failed()
    assert admin_client.post(SEEN, {"newest_at": newest_at}).status_code == 302
    assert "Refused" in alerts(admin_client)
    assert admin_client.get(f"{SEEN}?newest_at=5").status_code == 302


def test_who_may_not_retry_is_offered_no_retry(client, person):
    failed()
    person("view_job")
    html = alerts(client)
    assert "Refused" in html
    assert retry_links(html) == []
    person("view_job", "operate_job")
    assert len(retry_links(alerts(client))) == 1


def test_who_sees_no_panel_marks_nothing(client, person):
    person()
    assert client.post(SEEN, {"newest_at": "5"}).status_code == 403


only_jobs = AdminSite(name="failures")
only_jobs.register(Job, type(site.get_model_admin(Job)))


class OnlyJobs:
    urlpatterns = (path("office/", only_jobs.urls),)


def test_a_site_without_the_overview_among_its_models_has_no_button_to_mark_them(admin_client, settings):
    settings.ROOT_URLCONF = OnlyJobs
    failed()
    html = panels(admin_client.get("/office/pgonly_django/"))["alerts"]
    assert "Refused" in html
    assert "newest_at" not in html
