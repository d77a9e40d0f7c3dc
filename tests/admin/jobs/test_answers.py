"""What a waiting job waits for, on its page and in the list, and the answers of people."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import timedelta
from html import escape, unescape
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from psycopg import IsolationLevel

from pgonly_django import send_event
from pgonly_django.models import Event, Job, State, Wait
from pgonly_django.queue.batches import end_of
from pgonly_django.testing import drain
from tests import activity
from tests.admin.conftest import LIST, make_job, page_of, said
from tests.jobs import waiting
from tests.queue.rows import HOUR, ago, make_waiting, make_worker
from tests.waiting import beside, wait_for

pytestmark = pytest.mark.django_db
ASKED = {"question": "Include paper 7?", "choices": ["include", "exclude"]}
LEASED = {"run_at": None, "worker_id": uuid4(), "lease_expires_at": ago(-HOUR)}
IN_A_CENTURY = f"{timezone.now().year + 100}-"


@pytest.fixture
def asked():
    return make_waiting(**ASKED)


def address(wait, **query):
    return f"{LIST}{wait.job_id}/answer/?{urlencode({'key': wait.key, **query})}"


def answer(client, wait, text, **query):
    return client.post(address(wait, **query), {"answer": text}, follow=True)


def words(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def buttons(html):
    return re.findall(r'<button [^>]*name="answer" value="([^"]*)"', html)


def test_the_page_says_what_is_asked_since_when_and_until_when(page):
    until = timezone.now() + timedelta(days=3)
    html = page(make_waiting(**ASKED, until=until).job)
    line = r"Waiting 1 h: for an answer to “Include paper 7\?” \(approve:7\), since 20\S+ \S+, until 20\S+ [\d:]+ ?\."
    assert re.search(line, words(html))
    assert buttons(html) == ["include", "exclude"]
    assert "<dt>Due</dt>" not in html
    endless = words(page(make_waiting().job))
    assert re.search(r"Waiting 1 h: for “approve:7”, since \S+ \S+, without a deadline", endless)


@pytest.mark.parametrize("state", [State.SCHEDULED, State.HELD])
@pytest.mark.parametrize("is_answered", [False, True])
def test_no_page_says_that_a_wait_without_a_deadline_ends_in_a_hundred_years(
    admin_client, page, state, is_answered
):
    wait = make_waiting(state=state)
    if is_answered:
        send_event("approve:7")
    pages = [LIST, f"{LIST}?state__exact=waits-event", page_of(wait.job), f"{LIST}{wait.job_id}/edit/"]
    for each in (*pages, "/admin/pgonly_django/", "/admin/pgonly_django/wait/?waits=all"):
        html = admin_client.get(each).text
        assert IN_A_CENTURY not in html, each
        assert "36500 d" not in words(html).replace(",", ""), each


def test_an_edit_that_leaves_the_empty_time_alone_leaves_the_job_waiting(admin_client, asked):
    job = asked.job
    form = admin_client.get(f"{LIST}{job.pk}/edit/").context["form"]
    data = {name: form[name].value() or "" for name in form.fields}
    admin_client.post(f"{LIST}{job.pk}/edit/", {**data, "priority": 9})
    edited = Job.objects.get(pk=job.pk)
    assert (edited.priority, edited.state, edited.run_at) == (9, State.SCHEDULED, job.run_at)


def test_a_sleep_says_until_when_and_takes_no_answer(page):
    html = page(make_waiting(None, until=timezone.now() + timedelta(hours=2)).job)
    assert re.search(r"Waiting 1 h: it has been asleep since \S+ \S+, until \S+ [\d:]+ ?\.", words(html))
    assert 'name="answer"' not in html


def test_the_end_of_a_batch_is_no_answer_of_a_person(admin_client, page):
    wait = make_waiting(end_of(str(uuid4()), 1))
    html = page(wait.job)
    assert re.search(r"Waiting 1 h: for the jobs that it gathers, since \S+ \S+ ?\.", words(html))
    assert 'name="answer"' not in html
    assert "for the jobs that it gathers" in words(admin_client.get(LIST).text)
    (told,) = said(answer(admin_client, wait, "1"))
    assert told.startswith("The job does not wait")
    assert not Event.objects.exists()


def test_a_wait_of_an_earlier_run_is_not_shown(page, asked):
    Job.objects.filter(pk=asked.job_id).update(lease_epoch=2, run_at=timezone.now() + timedelta(hours=1))
    assert "due in" in words(page(Job.objects.get(pk=asked.job_id)))


def test_a_held_job_that_waits_says_both(page):
    text = words(page(make_waiting(**ASKED, state=State.HELD).job))
    assert "Held: by a person, until a person resumes it; for an answer to “Include paper 7?”" in text


def test_every_wait_of_a_job_that_waits_for_several_is_shown(page, asked):
    Wait.objects.create(job=asked.job, key="other", name="event other", lease_epoch=1)
    text = words(page(asked.job))
    assert "for an answer to “Include paper 7?”" in text
    assert "for “other”" in text


def test_a_click_answers_and_is_in_the_history(admin_client, admin_user, asked):
    response = answer(admin_client, asked, "include")
    assert response.redirect_chain[-1][0] == page_of(asked.job)
    assert said(response) == ["Answered “approve:7”: include."]
    assert Event.objects.get().payload == "include"
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (admin_user, str(asked.job_id))
    assert entry.change_message == "Answered “approve:7”: include."


def test_a_job_continues_with_what_a_person_has_answered(admin_client):
    result = waiting.wait.enqueue("approve:7")
    drain()
    wait = Wait.objects.get(job=result.id)
    assert "for “approve:7”" in words(admin_client.get(page_of(wait.job)).text)
    answer(admin_client, wait, '{"by": 3}')
    drain()
    result.refresh()
    assert result.return_value == {"by": 3}


def test_an_answered_job_says_so_and_offers_no_second_answer(page, asked):
    send_event("approve:7", "include")
    make_worker(threads=1)
    html = page(asked.job)
    assert "“approve:7” is answered, so the job continues as soon as a worker is free" in words(html)
    assert buttons(html) == []


def test_an_answered_job_without_a_worker_says_what_is_missing(page, asked):
    send_event("approve:7", "include")
    assert "no live worker serves “default”" in words(page(asked.job))


def test_a_second_click_is_told_who_answered_first(admin_client, client, asked):
    anna = User.objects.create_user("anna", is_staff=True, is_superuser=True)
    client.force_login(anna)
    answer(client, asked, "exclude")
    (text,) = said(answer(admin_client, asked, "include"))
    assert re.fullmatch(
        r"“approve:7” was answered first by anna, at 20\S+ \S+\. The answer is: \"exclude\"", text
    )
    assert Event.objects.get().payload == "exclude"
    assert LogEntry.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_serializable_click_beside_another_answer_is_told_who_was_first(
    admin_client, asked, other, monkeypatch
):
    level = IsolationLevel.SERIALIZABLE
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "isolation_level", level)
    with ExitStack() as until_the_click_is_over, transaction.atomic():
        send_event("approve:7", "exclude")
        click = beside(lambda: said(answer(admin_client, asked, "include")))
        told = until_the_click_is_over.enter_context(click)
        wait_for(lambda: activity.pids("wait_event_type = 'Lock'", on=other))
    assert "was answered first by a link or your code" in told[0][0]
    assert (Event.objects.get().payload, LogEntry.objects.count()) == ("exclude", 0)


def test_an_answer_that_was_no_click_names_nobody_and_only_who_may_see_data_sees_it(client, person, asked):
    person("view_job", "operate_job")
    send_event("approve:7", "exclude")
    Wait.objects.all().delete()  # the job has taken it
    (text,) = said(answer(client, asked, "include"))
    assert "was answered first by a link or your code" in text
    assert "exclude" not in text


def test_an_answer_that_nobody_waits_for_any_more_is_not_sent(admin_client, asked):
    Wait.objects.all().delete()
    assert said(answer(admin_client, asked, "include")) == ["The job does not wait for “approve:7” any more."]
    Job.objects.filter(pk=make_waiting(**ASKED).job_id).update(state=State.CANCELLED)
    answer(admin_client, Wait.objects.get(), "include")
    assert not Event.objects.exists()


def test_a_job_that_has_gone_on_without_its_question_takes_no_answer(admin_client, asked):
    Job.objects.update(lease_epoch=2)
    Wait.objects.create(job=Job.objects.get(), name="event approve:8", key="approve:8", lease_epoch=2)
    assert said(answer(admin_client, asked, "include")) == ["The job does not wait for “approve:7” any more."]
    Job.objects.update(state=State.RUNNING, **LEASED)
    (text,) = said(answer(admin_client, asked, "include"))
    assert text == "The job runs again, and has not come to “approve:7” yet. Please try again."
    assert not Event.objects.exists()


def test_a_person_is_told_that_another_job_offers_other_answers(admin_client, asked):
    make_waiting(choices=["later"])
    texts = said(answer(admin_client, asked, "include"))
    assert texts[0] == "Another job asks “approve:7” with other answers, and still waits for one of them."
    assert "Answered “approve:7”: include." in texts[1]


def test_only_a_declared_choice_is_an_answer(admin_client, asked):
    response = answer(admin_client, asked, "perhaps")
    assert response.context["form"].has_error("answer", "invalid_choice")
    assert not Event.objects.exists()


@pytest.mark.parametrize(
    ("typed", "sent"), [('{"by": 3}', {"by": 3}), ("", None), ('"yes"', "yes"), (" 0 ", 0)]
)
def test_a_wait_without_choices_takes_json(admin_client, page, typed, sent):
    wait = make_waiting()
    assert f'href="{escape(address(wait))}"' in page(wait.job)
    assert '<textarea name="answer"' in admin_client.get(address(wait)).text
    assert said(answer(admin_client, wait, typed)) == ["Answered “approve:7”."]
    assert Event.objects.get().payload == sent


@pytest.mark.parametrize("typed", ["yes", "{", '"\\u0000"', "NaN"])
def test_what_is_no_json_stays_in_the_form_that_says_why(admin_client, typed):
    response = answer(admin_client, make_waiting(), typed)
    assert response.status_code == 200
    assert response.context["form"].has_error("answer")
    assert response.context["form"]["answer"].value() == typed
    assert not Event.objects.exists()


def test_a_page_asks_the_same_without_sending(admin_client, asked):
    response = admin_client.get(address(asked))
    assert "Include paper 7?" in response.text
    assert not Event.objects.exists()


def test_no_choice_is_chosen_before_the_person_does(admin_client, asked):
    form = admin_client.get(address(asked)).text
    assert '<option value="" selected>' in form
    assert ">Back</a>" in form
    refused = admin_client.post(address(asked), {"answer": ""})
    assert refused.context["form"].has_error("answer", "required")


def test_the_person_comes_back_to_the_page_of_the_button_and_to_no_other_site(admin_client, asked):
    assert answer(admin_client, asked, "include", next="/admin/?a=1").redirect_chain[-1][0] == "/admin/?a=1"
    response = answer(admin_client, make_waiting("b"), "1", next="https://evil.example/")
    assert response.redirect_chain[-1][0].startswith(LIST)


@pytest.mark.parametrize(
    ("may", "sees"),
    [(["view_job_data"], True), (["operate_job"], True), ([], False)],
)
def test_the_question_is_for_who_may_answer_or_see_data_and_the_button_for_who_may_answer(
    client, person, asked, may, sees
):
    person("view_job", "view_wait", *may)
    wait_page = f"/admin/pgonly_django/wait/{asked.pk}/change/"
    places = page_of(asked.job), LIST, "/admin/pgonly_django/wait/", "/admin/pgonly_django/", wait_page
    for place in places:
        html = client.get(place).text
        assert ("Include paper 7?" in html) == sees, place
        assert sees or "approve:7" in html, place
    assert buttons(client.get(page_of(asked.job)).text) == (
        ["include", "exclude"] if "operate_job" in may else []
    )


def test_who_may_only_view_answers_nothing(client, person, asked):
    person("view_job", "view_job_data")
    assert client.post(address(asked), {"answer": "include"}).status_code == 403
    assert not Event.objects.exists()


def test_a_question_is_escaped_in_each_place(admin_client):
    evil = '"><script>alert(1)</script>'
    wait = make_waiting(evil, question=evil, choices=[evil])
    for place in (
        page_of(wait.job),
        LIST,
        address(wait),
        "/admin/pgonly_django/wait/",
        "/admin/pgonly_django/",
    ):
        assert "<script>alert" not in admin_client.get(place).text, place
    answer(admin_client, wait, evil)
    assert Event.objects.get().payload == evil


def test_the_list_shows_what_jobs_wait_for_with_one_statement_for_all(admin_client, asked):
    make_waiting(None, until=timezone.now() + timedelta(hours=2))
    text = words(admin_client.get(LIST).text)
    assert "waits 1 h for Include paper 7?" in text
    assert re.search(r"in 1 h 59 min|in 2 h", text)
    counts = []
    for number in range(3):
        with CaptureQueriesContext(connection) as sent:
            admin_client.get(LIST)
        counts.append(len(sent))
        make_waiting(f"more {number}")
    assert counts[0] == counts[2]
    send_event("approve:7", "include")
    assert "answered: Include paper 7?" in words(admin_client.get(LIST).text)


def test_a_key_with_what_no_statement_accepts_is_not_waited_for(admin_client):
    job = make_job()
    response = admin_client.get(f"{LIST}{job.pk}/answer/?key=%00", follow=True)
    assert said(response) == ["The job does not wait for “” any more."]
