"""The list "Waiting for people", and its panel on the overview."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pgonly_django import send_event
from pgonly_django.models import Event, Job, State, Wait
from pgonly_django.queue.batches import end_of
from tests.plans.test_plans import walk
from tests.queue.rows import make_waiting

pytestmark = pytest.mark.django_db
HOME = "/admin/pgonly_django/"
LIST = f"{HOME}wait/"
DAY = timedelta(days=1)


def words(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def asked(question, **columns):
    return make_waiting(question, question=question, choices=["yes", "no"], **columns)


def keys(client, query=""):
    return [wait.key for wait in client.get(f"{LIST}{query}").context["cl"].result_list]


def panel(client):
    found = re.search(r'<section [^>]*data-live="waits".*?</section>', client.get(HOME).text, re.DOTALL)
    return found[0] if found else ""


def test_the_list_has_what_people_are_asked_the_oldest_first(admin_client):
    asked("b", since=DAY), asked("a", since=2 * DAY), make_waiting("only choices", choices=["ok"])
    make_waiting("payment:7"), make_waiting(None)
    assert keys(admin_client) == ["a", "b", "only choices"]
    assert {*keys(admin_client, "?waits=all")} == {"a", "b", "only choices", "payment:7", None}
    assert keys(admin_client, "?q=b") == ["b"]
    assert keys(admin_client, "?waits=all&q=payment") == []
    page = admin_client.get(LIST)
    assert page.context["title"] == "Waiting for people"
    (choices,) = [[*each.choices(page.context["cl"])] for each in page.context["cl"].filter_specs]
    assert [each["display"] for each in choices] == ["Waiting for people", "All waits"]
    assert "Question" in words(page.text)
    assert "Waits for" in words(admin_client.get(f"{LIST}?waits=all").text)
    assert "2 d ago" in words(page.text)
    assert "no deadline" in words(page.text)


@pytest.mark.parametrize(
    ("query", "is_offered"),
    [("", False), ("?q=a", True), ("?waits=all", False), ("?waits=all&q=a", False)],
)
def test_show_all_is_offered_only_where_it_leads_to_more(admin_client, query, is_offered):
    asked("a")
    cl = admin_client.get(f"{LIST}{query}").context["cl"]
    assert (cl.result_count != cl.full_result_count) is is_offered  # what Django's template asks


def test_what_is_answered_or_whose_job_has_ended_or_runs_again_is_not_in_it(admin_client):
    for name in ("answered", "ended", "runs", "waits"):
        asked(name)
    send_event("answered", "yes")
    Job.objects.filter(waits__key="ended").update(state=State.CANCELLED)
    Job.objects.filter(waits__key="runs").update(lease_epoch=2)
    assert keys(admin_client) == ["waits"]
    assert "waits" in panel(admin_client)
    assert "ended" not in panel(admin_client)


def test_what_is_no_question_is_neither_counted_as_one_nor_named_by_an_internal_key(admin_client):
    internal = end_of(str(uuid4()), 1)
    asked("a"), make_waiting(internal), make_waiting("payment:7")
    html = admin_client.get(f"{LIST}?waits=all").text
    (count,) = re.findall(r'<nav class="paginator pgonly-paginator".*?</nav>', html, re.DOTALL)
    assert words(count).strip() == "3 waits"
    assert "the jobs that it gathers" in words(html)
    assert internal not in unescape(html)


def test_an_empty_list_says_that_nobody_is_asked(admin_client):
    assert "No job waits for an answer here." in admin_client.get(LIST).text
    assert "No job waits for an event or a time." in admin_client.get(f"{LIST}?waits=all").text
    assert panel(admin_client) == ""


@pytest.mark.parametrize("place", [LIST, HOME, "its page"])
def test_a_button_answers_and_leads_to_a_page_that_is_there(admin_client, place):
    wait = asked("Include?")
    html = admin_client.get(f"{LIST}{wait.pk}/change/" if place == "its page" else place).text
    (button,) = re.findall(r'<button [^>]*formaction="([^"]*)" name="answer" value="yes"', html)
    form = re.search(r"<form [^>]*>((?!</form>).)*formaction=", html, re.DOTALL)[0]
    assert 'method="post"' in form
    assert "csrfmiddlewaretoken" in form
    response = admin_client.post(unescape(button), {"answer": "yes"})
    assert response["Location"] == (LIST if place == "its page" else place)
    assert Event.objects.get().payload == "yes"
    assert wait.key == Event.objects.get().key


def test_a_wait_without_choices_leads_to_a_form(admin_client):
    make_waiting(question="Which?")
    (link,) = re.findall(
        r'<a class="button pgonly-button" href="([^"]*/answer/[^"]*)"', admin_client.get(LIST).text
    )
    assert admin_client.get(unescape(link)).status_code == 200


def test_who_may_not_operate_jobs_sees_no_button_and_who_may_not_view_jobs_no_link(client, person):
    asked("Include?")
    person("view_wait")
    for place in (LIST, HOME):
        html = client.get(place).text
        assert ">Include?" in html  # the key
        assert "/job/" not in html
        assert "formaction" not in html
    person("view_wait", "view_job")
    assert "/job/" in client.get(LIST).text
    assert "formaction" not in client.get(LIST).text


def test_the_overview_shows_the_ten_oldest_and_where_the_others_are(admin_client):
    for number in range(11):
        asked(f"question {number:02}", since=timedelta(hours=number))
    html = panel(admin_client)
    assert "question 10" in html
    assert "question 00" not in html
    assert f'href="{LIST}"' in html


def test_the_number_of_statements_does_not_grow_with_the_rows(admin_client):
    counts = []
    for number in range(4):
        asked(f"question {number}")
        for place in (LIST, HOME):
            admin_client.get(place)
            with CaptureQueriesContext(connection) as sent:
                admin_client.get(place)
            counts.append(len(sent))
    assert counts[:2] == counts[-2:]


def test_the_oldest_questions_are_found_by_their_index_among_many_other_waits():
    wait = asked("a")
    Wait.objects.bulk_create(
        Wait(job=wait.job, name=f"event {number}", key=f"payment:{number}", lease_epoch=1)
        for number in range(5000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE pgonly_wait")
        sql, parameters = (
            Wait.objects.open().for_people().with_jobs().order_by("began_at")[:11].query.sql_with_params()
        )
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
        ((plan,),) = cursor.fetchall()
    used = {node.get("Index Name") for node in walk(plan[0]["Plan"])}
    assert "pgonly_wait_asked" in used


def test_the_page_of_a_wait_has_no_form(admin_client):
    wait = asked("Include?", until=timezone.now() + DAY)
    html = admin_client.get(f"{LIST}{wait.pk}/change/").text
    assert "<h2>Include?</h2>" in html
    assert re.search(r'<button [^>]*formaction="[^"]*" name="answer" value="yes"', html)
    assert 'name="_save"' not in html
    assert f'href="{HOME}job/{wait.job_id}/change/"' in html
    assert "yes, no" in html
    assert admin_client.post(f"{LIST}{wait.pk}/delete/", {"post": "yes"}).status_code == 403
