"""The page of a link that answers the question of a job."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import timedelta
from html import unescape
from types import SimpleNamespace
from uuid import uuid4

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone, translation
from psycopg import IsolationLevel

from pgonly_django import answer_url, send_event
from pgonly_django.current_job import current_job
from pgonly_django.models import Event, Job, State, Step, Wait
from tests import activity
from tests.queue.rows import HOUR, ago, make_running, make_waiting
from tests.waiting import beside, wait_for

pytestmark = pytest.mark.django_db
ASKED = {"question": "Include paper 7?", "choices": ["include", "exclude"]}
LEASED = {"run_at": None, "worker_id": uuid4(), "lease_expires_at": ago(-HOUR)}


@pytest.fixture
def asked():
    return make_waiting(**ASKED)


def sure(choice):
    """What the page sends that asks whether this is the answer."""
    return {"choice": choice, "confirmed": "yes"}


def title(response):
    return re.search(r"<h1>(.*?)</h1>", response.text)[1]


def test_whoever_has_the_link_sees_the_question_and_answers_it(client, asked):
    url = answer_url("approve:7")
    page = client.get(url)
    assert (page.status_code, title(page)) == (200, "Include paper 7?")
    assert re.findall(r'<button name="choice" value="(\w+)"', page.text) == ["include", "exclude"]
    assert not Event.objects.exists()
    done = client.post(url, sure("include"))
    assert (done.status_code, title(done)) == (200, "Thank you")
    assert Event.objects.get().payload == "include"


def text(response):
    return unescape(re.search(r'<p class="lead">(.*?)</p>', response.text)[1])


def test_an_answer_is_confirmed_before_it_counts(client, asked):
    url = answer_url("approve:7")
    page = client.post(url, {"choice": "include"})
    assert (page.status_code, title(page)) == (200, "Include paper 7?")
    assert text(page) == "Your answer is “include”. It is final."
    assert not Event.objects.exists()
    sent = dict(re.findall(r'name="(choice|confirmed)" value="(\w+)"', page.text))
    assert title(client.post(url, sent)) == "Thank you"


def test_who_comes_too_late_reads_what_was_answered_when_and_by_whom(client, admin_client, asked, settings):
    settings.TIME_ZONE = "Asia/Kathmandu"
    url = answer_url("approve:7")
    admin_client.post(f"/admin/pgonly_django/job/{asked.job_id}/answer/?key=approve:7", {"answer": "include"})
    said = text(client.get(url))
    assert re.fullmatch(
        r"It was answered on .* \(\+0545\) by admin\. The answer is “include”\. The first answer counts\.",
        said,
    )


def test_what_code_has_sent_beside_the_choices_is_not_shown(client):
    make_waiting()
    send_event("approve:7", "for the job alone")
    assert "alone" not in text(client.get(answer_url("approve:7")))
    Wait.objects.all().delete()  # as the job does that takes the answer
    said = text(client.get(answer_url("approve:7")))
    assert re.fullmatch(r"It was answered on .* \(CST\)\. The first answer counts\.", said)


def test_what_was_chosen_is_told_after_the_job_has_taken_the_answer(client, asked):
    url = answer_url("approve:7")
    client.post(url, sure("include"))
    Wait.objects.all().delete()
    assert "The answer is “include”." in text(client.get(url))


def test_an_empty_text_among_the_choices_can_be_chosen(client):
    make_waiting(question="Which?", choices=["", "b"])
    url = answer_url("approve:7")
    assert 'name="confirmed"' in client.post(url, {"choice": ""}).text
    assert title(client.post(url, sure(""))) == "Thank you"


@pytest.fixture
def running():
    """The job whose code makes the link, which is no row of Job: see models/claimed.py."""
    job = make_running()
    token = current_job.set(SimpleNamespace(job=SimpleNamespace(id=job.pk)))
    yield job
    current_job.reset(token)


def test_a_link_that_is_opened_before_the_job_waits_looks_until_it_does(client, running):
    url = answer_url("approve:7")
    for response in (client.get(url), client.post(url, sure("include"))):
        assert (response.status_code, title(response), response["Refresh"]) == (503, "One moment", "5")
    Wait.objects.create(
        job=running, name="event approve:7", key="approve:7", lease_epoch=running.lease_epoch, **ASKED
    )
    assert title(client.get(url)) == "Include paper 7?"


@pytest.mark.parametrize("end", ["step", "first of", "cancelled", "an hour"])
def test_a_link_whose_job_goes_on_without_an_answer_is_withdrawn(client, running, end, monkeypatch):
    url = answer_url("approve:7")
    if end == "step":
        Step.objects.create(job=running, name="event approve:7", result="null")
    elif end == "first of":
        Step.objects.create(job=running, name='first of "approve:7", "cancel:7"', result="null")
    elif end == "an hour":
        monkeypatch.setattr("pgonly_django.progress.answers.EARLY_SECONDS", -1)
    else:
        Job.objects.update(state=State.CANCELLED, lease_expires_at=None)
    assert title(client.get(url)) == "No longer waited for"


def test_a_link_works_once_and_the_first_answer_counts(client, asked):
    url, other = answer_url("approve:7"), answer_url("approve:7", timedelta(days=1))
    client.post(url, sure("include"))
    for response in (client.post(url, sure("exclude")), client.get(url), client.get(other)):
        assert (response.status_code, title(response)) == (410, "Already answered")
        assert "<button" not in response.text
    assert Event.objects.get().payload == "include"


def test_an_answer_between_the_page_and_the_click_counts(client, asked):
    url = answer_url("approve:7")
    client.get(url)
    send_event("approve:7", "exclude")
    assert title(client.post(url, sure("include"))) == "Already answered"
    assert Event.objects.get().payload == "exclude"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "level", [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
)
@pytest.mark.parametrize(
    ("commits", "said", "counts"), [(True, "Already answered", "exclude"), (False, "Thank you", "include")]
)
def test_of_two_answers_at_the_same_time_the_first_that_commits_counts(
    other, asked, commits, said, counts, level, monkeypatch
):
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "isolation_level", level)
    url = answer_url("approve:7")
    with ExitStack() as until_the_click_is_over, transaction.atomic():
        send_event("approve:7", "exclude")
        click = beside(lambda: Client().post(url, sure("include")))
        responses = until_the_click_is_over.enter_context(click)
        wait_for(lambda: activity.pids("wait_event_type = 'Lock'", on=other))
        transaction.set_rollback(not commits)
    assert [title(response) for response in responses] == [said]
    assert Event.objects.get().payload == counts


def test_an_expired_link_says_so_and_answers_nothing(client, asked):
    url = answer_url("approve:7", timedelta(seconds=-1))
    for response in (client.get(url), client.post(url, sure("include"))):
        assert (response.status_code, title(response)) == (410, "This link has expired")
        assert "Include paper 7?" not in response.text
    assert not Event.objects.exists()


def test_a_changed_link_is_not_valid(client, asked):
    url = answer_url("approve:7")
    for wrong in (url[:-3] + "/", f"{url[:-20]}/", "/pgonly/answer/x/"):
        for response in (client.get(wrong), client.post(wrong, sure("include"))):
            assert (response.status_code, title(response)) == (404, "This link is not valid")
    assert not Event.objects.exists()


@pytest.mark.parametrize("end", ["timed out", *(each.value for each in (State.CANCELLED, State.FAILED))])
def test_what_nobody_waits_for_any_more_says_so(client, asked, end):
    url = answer_url("approve:7")
    if end == "timed out":
        Wait.objects.all().delete()
    else:
        Job.objects.update(state=end)
    for response in (client.get(url), client.post(url, sure("include"))):
        assert (response.status_code, title(response)) == (410, "No longer waited for")
    assert not Event.objects.exists()


def test_a_job_that_runs_again_on_its_way_to_the_question_can_be_answered(client, asked):
    Job.objects.update(state=State.READY, lease_epoch=2)
    assert title(client.post(answer_url("approve:7"), sure("include"))) == "Thank you"


def test_a_question_that_the_job_has_gone_on_without_is_withdrawn(client, asked):
    Job.objects.update(lease_epoch=2)  # it waits for something else now
    Wait.objects.create(job=Job.objects.get(), name="event approve:8", key="approve:8", lease_epoch=2)
    for response in (
        client.get(answer_url("approve:7")),
        client.post(answer_url("approve:7"), sure("include")),
    ):
        assert (response.status_code, title(response)) == (410, "No longer waited for")
    assert not Event.objects.exists()


def test_the_page_of_a_job_that_runs_again_looks_until_that_asks_again(client, asked):
    url = answer_url("approve:7")
    Job.objects.update(state=State.RUNNING, lease_epoch=2, **LEASED)
    for response in (client.get(url), client.post(url, sure("include"))):
        assert (response.status_code, title(response), response["Refresh"]) == (503, "One moment", "5")
    assert not Event.objects.exists()
    Wait.objects.update(lease_epoch=2)
    assert title(client.get(url)) == "Include paper 7?"


def test_an_answer_counts_for_the_jobs_that_offer_it_and_the_others_are_still_asked(client, asked):
    other = make_waiting(question="Include it?", choices=["include", "later"], since=timedelta(0))
    url = answer_url("approve:7")
    done = client.post(url, sure("exclude"))
    assert (title(done), "Another job asks the same" in done.text) == ("Thank you", True)
    assert title(client.post(url, sure("include"))) == "Already answered"  # until the first job has heard it
    assert list(Wait.objects.open()) == [other]
    asked.delete()
    assert title(client.get(url)) == "Include it?"
    done = client.post(url, sure("later"))
    assert (title(done), "Another job asks the same" in done.text) == ("Thank you", False)
    assert Event.objects.get().payload == "later"
    assert title(client.get(url)) == "Already answered"


def test_only_a_declared_choice_is_an_answer(client, asked):
    page = client.post(answer_url("approve:7"), sure("perhaps"))
    assert (page.status_code, title(page)) == (200, "Include paper 7?")
    assert not Event.objects.exists()


def test_a_question_without_choices_and_choices_without_a_question_have_a_page(client):
    make_waiting(question="Which?"), make_waiting("b", choices=["yes"])
    assert "no answers to choose from" in client.get(answer_url("approve:7")).text
    assert title(client.get(answer_url("b"))) == "A decision is needed"


def test_the_page_names_the_deadline_of_the_job(client):
    make_waiting(**ASKED, until=timezone.now().replace(year=2077))
    said = text(client.get(answer_url("approve:7")))
    assert re.fullmatch(r"Please answer before .*2077.* \(CST\)\.", said)


def test_the_page_needs_no_login_but_the_token_of_its_form(asked, settings):
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]  # fmt: skip
    browser = Client(enforce_csrf_checks=True)
    url = answer_url("approve:7")
    assert browser.post(url, sure("include")).status_code == 403
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(url).text)[1]
    done = browser.post(url, {**sure("include"), "csrfmiddlewaretoken": token})
    assert title(done) == "Thank you"


def test_no_cache_keeps_the_page_no_frame_has_it_and_its_address_stays_on_the_site(client, asked):
    page = client.get(answer_url("approve:7"))
    assert "no-store" in page["Cache-Control"]
    assert page["X-Frame-Options"] == "DENY"
    assert (page["Referrer-Policy"], page["X-Robots-Tag"]) == ("same-origin", "noindex")
    assert not re.search(r"<script|<style| style=|\son\w+=", page.text)


def test_the_page_is_written_from_right_to_left_in_such_a_language(client, asked):
    with translation.override("ar"):
        page = client.get(answer_url("approve:7"))
    assert '<html lang="ar" dir="rtl">' in page.text


def test_a_question_is_escaped(client):
    evil = "<script>alert(1)</script>"
    make_waiting(question=evil, choices=[evil])
    assert evil not in client.get(answer_url("approve:7")).text


def test_a_site_without_the_urls_is_told_to_include_them(settings):
    settings.ROOT_URLCONF = "tests.progress.urls_without_ours"
    with pytest.raises(ImproperlyConfigured, match=r'include\("pgonly_django.urls"\)'):
        answer_url("approve:7")


def test_any_key_fits_into_an_address(client):
    key = "ünïcode /?#%\n " * 17
    make_waiting(key, choices=["yes"])
    assert title(client.post(answer_url(key), sure("yes"))) == "Thank you"
