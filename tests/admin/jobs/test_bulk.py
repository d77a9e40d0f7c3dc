"""A verb over many jobs at once: the page that asks, what is done, and what is told."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from threading import Thread

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from pgonly_django.admin import verbs
from pgonly_django.admin.jobs import bulk
from pgonly_django.admin.jobs.verbs import RETRY
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, State
from tests import activity
from tests.admin.conftest import LIST, act, make_job
from tests.queue.rows import insert_jobs, lock, make_gathering
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db

ALL = {"index": "0", "select_across": "1", "_selected_action": [str(bulk.NO_JOB)]}


def ask(client, verb, query="", jobs=()):
    """The page that asks: from a selection of the list, or for all that match."""
    if not jobs:
        return client.get(f"{LIST}bulk/{verb}/{query}")
    return act(client, f"{verb}_jobs", jobs, LIST + query)


def fields(response):
    """Of its form, with the button."""
    form = re.search(r'<form method="post" action="([^"]*)">(.*?)</form>', response.text, re.DOTALL)
    inputs = re.findall(r'<(?:input|button)[^>]*? name="(\w+)" value="([^"]*)"', form[2])
    return unescape(form[1]), {name: [value for key, value in inputs if key == name] for name, _ in inputs}


def confirm(client, page):
    return client.post(*fields(page), follow=True)


def told(response):
    """The messages, as the page has them: what Django's client notes of contexts mixes two clients at once."""
    (listed,) = re.findall(r'<ul class="messagelist">(.*?)</ul>', response.text, re.DOTALL)
    return [unescape(text) for text in re.findall(r"<li[^>]*>(.*?)</li>", listed, re.DOTALL)]


def facts(page):
    """Of the page that asks."""
    pairs = re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page.text, re.DOTALL)
    return {name: re.sub(r"<[^>]*>", "", value) for name, value in pairs}


def states():
    return sorted(Job.objects.values_list("state", flat=True))


def test_an_action_of_the_list_asks_first_and_says_what_will_happen(admin_client):
    jobs = [make_job(state) for state in ("failed", "failed", "running", "succeeded")]
    make_job(State.FAILED)
    page = ask(admin_client, "retry", jobs=jobs)
    of_what = {"By task": "2 add", "By queue": "2 default"}
    assert facts(page) == {
        "Retry": RETRY.hint, "Jobs": "2", "Left alone": "1 succeeded, 1 running", **of_what
    }  # fmt: skip
    assert Job.objects.filter(state=State.FAILED).count() == 3
    answer = confirm(admin_client, page)
    assert told(answer) == ["Retry: 2 jobs. Left alone: 1 succeeded, 1 running."]
    assert states() == ["failed", "ready", "ready", "running", "succeeded"]
    assert LogEntry.objects.count() == 2


def test_all_that_match_the_filters_are_meant_and_nothing_else(admin_client):
    wanted = [make_job(State.FAILED, queue="ai") for _ in range(60)]
    other = make_job(State.FAILED, queue="mail")
    page = ask(admin_client, "retry", "?state__exact=failed&queue=ai")
    assert "<strong>Failed jobs: queue ai</strong>" in page.text
    assert facts(page)["Jobs"] == "60"
    assert fields(page)[0] == f"{LIST}?state__exact=failed&queue=ai"
    answer = confirm(admin_client, page)
    assert told(answer) == ["Retry: 60 jobs."]
    assert answer.redirect_chain == [(f"{LIST}?state__exact=failed&queue=ai", 302)]
    assert set(Job.objects.filter(state=State.READY)) == set(wanted)
    assert LogEntry.objects.count() == 60
    other.refresh_from_db()
    assert other.state == State.FAILED


def test_all_that_match_can_also_be_selected_in_the_list(admin_client):
    for _ in range(3):
        make_job(State.FAILED, queue="ai")
    make_job(State.FAILED, queue="mail")
    page = admin_client.post(f"{LIST}?queue=ai", {"action": "discard_jobs", **ALL})
    assert facts(page)["Left alone"] == "3 failed"
    assert "None of them is in a state that allows it." in page.text
    assert "<form method" not in page.text[page.text.index('id="content-main"') :]
    page = admin_client.post(f"{LIST}?queue=ai", {"action": "retry_jobs", **ALL})
    assert "All that match the filters of the list." in page.text
    assert told(confirm(admin_client, page)) == ["Retry: 3 jobs."]


def test_a_tab_offers_what_may_be_done_to_all_its_jobs(admin_client, client, person):
    make_job(State.HELD, queue="ai")
    page = admin_client.get(f"{LIST}?state__exact=held&queue=ai").text
    links = re.findall(r'<a href="bulk/(\w+)/([^"]*)"', page)
    assert [name for name, _ in links] == ["resume", "retry", "cancel", "discard"]
    assert {unescape(query) for _, query in links} == {"?queue=ai&state__exact=held"}
    assert "bulk/" not in admin_client.get(LIST).text
    assert "bulk/" not in admin_client.get(f"{LIST}?state__exact=failed").text
    person("view_job")
    assert "bulk/" not in client.get(f"{LIST}?state__exact=held").text


@pytest.mark.parametrize("permissions", [["view_job"], ["operate_job"]])
def test_who_may_not_operate_and_see_jobs_is_refused(client, person, permissions):
    job = make_job(State.FAILED)
    person(*permissions)
    assert ask(client, "retry").status_code == 403
    act(client, "retry_jobs", [job], confirmed="yes")
    job.refresh_from_db()
    assert job.state == State.FAILED


@pytest.mark.parametrize("name", ["delete", "x", "redrive"])
def test_an_unknown_verb_is_not_found(admin_client, name):
    assert ask(admin_client, name).status_code == 404
    assert admin_client.post(f"{LIST}{make_job().pk}/operate/{name}/").status_code == 404


def test_an_address_that_cannot_be_leads_to_the_list(admin_client):
    assert ask(admin_client, "retry", "?worker=x").url == LIST


def test_more_than_fit_are_done_in_several_goes_each_offered_by_the_report(admin_client, monkeypatch):
    monkeypatch.setattr(bulk, "AT_ONCE", 4), monkeypatch.setattr(verbs, "AT_ONCE", 4)
    for _ in range(6):
        make_job(State.FAILED, task="shop.a")
    page = ask(admin_client, "retry", "?task=shop.a")
    assert facts(page)["Jobs"].startswith("4+")
    answer = confirm(admin_client, page)
    (text,) = told(answer)
    assert text.startswith("Retry: 4 jobs. <a href=")
    again = unescape(re.search(r'href="([^"]*)">Do it again for the next ones', answer.text)[1])
    assert again == f"{LIST}bulk/retry/?task=shop.a"
    page = admin_client.get(again)
    of_what = {"By task": "2 a", "By queue": "2 default"}
    assert facts(page) == {"Retry": RETRY.hint, "Jobs": "2", "Left alone": "4 ready", **of_what}
    assert told(confirm(admin_client, page)) == ["Retry: 2 jobs. Left alone: 4 ready."]
    assert Job.objects.filter(state=State.READY).count() == 6


def test_jobs_that_were_asked_to_stop_are_not_asked_again(admin_client):
    make_job(State.RUNNING, cancel_requested_at=timezone.now())
    running = make_job(State.RUNNING)
    page = ask(admin_client, "cancel")
    assert facts(page)["Left alone"] == "1 already asked to stop"
    (text,) = told(confirm(admin_client, page))
    assert text == "1 job was asked to stop. Left alone: 1 already asked to stop."
    running.refresh_from_db()
    assert running.cancel_requested_at is not None
    assert LogEntry.objects.get().object_id == str(running.pk)


def test_jobs_whose_unique_key_another_one_has_are_named_as_such(admin_client):
    unique = {"unique_key": "add {} #1", "unique_while": "unfinished"}
    make_job(State.FAILED, **unique)
    make_job(State.READY, **unique)
    make_job(State.FAILED, unique_key="add {} #2", unique_while=None)
    page = ask(admin_client, "retry", "?state__exact=failed")
    assert facts(page)["Left alone"] == "1 whose unique key another job has"
    (text,) = told(confirm(admin_client, page))
    assert text == "Retry: 1 job. Left alone: 1 whose unique key another job has."


def test_the_second_of_two_people_is_told_that_somebody_was_faster(admin_client):
    jobs = [make_job(State.FAILED) for _ in range(3)]
    first, second = (ask(admin_client, "retry", "?state__exact=failed") for _ in range(2))
    assert told(confirm(admin_client, first)) == ["Retry: 3 jobs."]
    (text,) = told(confirm(admin_client, second))
    assert "Retry: nothing to do" in text
    assert "3 fewer than the page had counted: another person or a worker has changed them since." in text
    one, other = ask(admin_client, "cancel", jobs=jobs), ask(admin_client, "hold", jobs=jobs[:1])
    confirm(admin_client, other)
    Job.objects.filter(pk=jobs[1].pk).update(state=State.SUCCEEDED)
    (text,) = told(confirm(admin_client, one))
    assert text == (
        "Cancel: 2 jobs. That is 1 fewer than the page had counted: another person or a worker has changed it since. "
        "Left alone: 1 succeeded."
    )


@pytest.mark.django_db(transaction=True)
def test_of_two_people_at_once_each_job_is_changed_and_logged_by_one():
    """The one who comes second waits for the locks of the first one, and then leaves the jobs alone."""
    jobs = [make_job(State.FAILED) for _ in range(5)]
    clients, answers = [Client(), Client()], {}
    for number, client in enumerate(clients):
        client.force_login(User.objects.create_superuser(f"person {number}"))

    def run(number):
        try:
            answers[number] = told(confirm(clients[number], ask(clients[number], "retry", jobs=jobs)))
        finally:
            connections.close_all()

    threads = [Thread(target=run, args=[number]) for number in range(2)]
    with connect("default", application_name="test") as other, other.transaction():
        lock(other, jobs[0])
        for thread in threads:
            thread.start()
        wait_for(lambda: len(activity.pids("wait_event IN ('tuple', 'transactionid')")) == 2)
    for thread in threads:
        thread.join()
    done, missed = sorted((text for (text,) in answers.values()), key=len)
    assert done == "Retry: 5 jobs."
    assert "5 jobs were left alone: another person or a worker has changed them since." in missed
    assert states() == ["ready"] * 5
    assert LogEntry.objects.count() == 5
    assert LogEntry.objects.values("user").distinct().count() == 1


@pytest.mark.django_db(transaction=True)
def test_who_is_killed_in_the_middle_has_done_whole_batches(admin_client, monkeypatch):
    monkeypatch.setattr(verbs, "BATCH", 2)
    for _ in range(5):
        make_job(State.FAILED)
    page = ask(admin_client, "retry")
    statements = 0

    def killed(execute, sql, params, many, context):
        nonlocal statements
        if sql.startswith("INSERT INTO") and "django_admin_log" in sql:
            statements += 1
            if statements == 2:
                raise KeyboardInterrupt
        return execute(sql, params, many, context)

    with connection.execute_wrapper(killed), pytest.raises(KeyboardInterrupt):
        confirm(admin_client, page)
    assert states() == ["failed"] * 3 + ["ready"] * 2
    assert LogEntry.objects.count() == 2
    assert "Retry: 3 jobs." in told(confirm(admin_client, page))[0]


def slow(execute, sql, params, many, context):
    if "DESC LIMIT 10001" in sql:  # the list's own count has no order
        sql = f"SELECT it.* FROM ({sql}) AS it, pg_sleep(5)"
    return execute(sql, params, many, context)


def test_what_takes_too_long_to_find_is_told_and_changes_nothing(admin_client, monkeypatch):
    monkeypatch.setattr(bulk, "SEARCH_LIMIT", timedelta(milliseconds=50))
    make_job(State.FAILED)
    page = ask(admin_client, "retry")
    with connection.execute_wrapper(slow):
        assert "Counting them took too long" in ask(admin_client, "retry").text
        assert "It took too long to find the jobs" in told(confirm(admin_client, page))[0]
    assert states() == ["failed"]


def test_a_page_that_was_narrowed_says_so(admin_client, monkeypatch):
    monkeypatch.setattr(bulk.JobChangeList, "statement_limit", timedelta(milliseconds=1))
    monkeypatch.setattr(bulk.JobChangeList, "newest_rows", 1)
    with connection.cursor() as cursor:
        cursor.execute(insert_jobs("generate_series(1, 20000)", args="jsonb_build_array(repeat('x', 1000))"))
    assert '<p class="pgonly-note"' in ask(admin_client, "cancel", "?q=needle").text


def test_the_button_names_the_act_and_the_page_says_of_what(admin_client):
    entry = {"outcome": "failed", "exception": "shop.Refused"}
    for queue in ("ai", "ai", "mail"):
        make_job(State.FAILED, queue=queue, errors=[entry])
    page = ask(admin_client, "retry")
    assert facts(page) == facts(page) | {
        "By task": "3 add",
        "By queue": "2 ai, 1 mail",
        "By error": "3 Refused",
    }
    assert ">Retry 3 jobs</button>" in page.text
    assert "pgonly-button-danger" not in page.text
    make_job()
    page = ask(admin_client, "cancel")
    assert ">Cancel 1 job</button>" in page.text
    assert "pgonly-button-danger" in page.text
    assert re.search(r"<a [^>]*autofocus>Back to the list</a>", page.text)
    assert page.text.count("autofocus") == 1


def gathering():
    """A job that gathers: one of its jobs has ended, and two have not."""
    return make_gathering(succeeded=1, ready=2).parent


@pytest.mark.parametrize(
    ("more", "states"),
    [({}, ["cancelled", "cancelled", "succeeded"]), ({"members": "keep"}, ["ready", "ready", "succeeded"])],
)
def test_a_discard_of_a_job_that_gathers_asks_what_becomes_of_its_jobs(admin_client, more, states):
    parent = gathering()
    address = f"{LIST}bulk/discard/?id={parent.pk}"
    assert f'href="{address}"' in admin_client.get(f"{LIST}{parent.pk}/change/").text
    page = admin_client.get(address)
    assert "2 of the jobs that they gather have not ended." in page.text
    assert re.findall(r'pgonly-button-danger">([^<]*)<', page.text) == [
        "Discard 1 job, cancel what is gathered", "Discard 1 job, what is gathered continues",
    ]  # fmt: skip
    sent = {"action": "discard_jobs", "index": "0", "select_across": "1", "confirmed": "yes", **more}
    admin_client.post(page.context["address"], {**sent, "_selected_action": page.context["selected"][0]})
    parent.refresh_from_db()
    assert parent.state == State.FAILED
    assert sorted(Job.objects.exclude(pk=parent.pk).values_list("state", flat=True)) == states


def test_a_discard_of_a_job_that_gathers_nothing_asks_nothing(admin_client):
    job = make_job()
    assert f"{LIST}{job.pk}/operate/discard/" in admin_client.get(f"{LIST}{job.pk}/change/").text
    assert "they gather" not in admin_client.get(f"{LIST}bulk/discard/?id={job.pk}").text
