"""Who gets an answer about a job, and what it says."""

from __future__ import annotations

import re
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import AsyncClient, Client
from django.utils import timezone
from django.utils.formats import date_format

from pgonly_django import send_event
from pgonly_django.models import Queue, State
from pgonly_django.progress import look, views
from pgonly_django.progress.tokens import Grant
from pgonly_django.queue.batches import end_of
from pgonly_django.queue.output import SeenRow, place, write_output
from tests.queue.rows import (
    LEASE,
    ago,
    fresh,
    make,
    make_gathering,
    make_running,
    make_waiting,
    make_worker,
)

pytestmark = pytest.mark.django_db
URL, EVENTS, CANCEL = "/pgonly/progress/", "/pgonly/progress/events/", "/pgonly/progress/cancel/"
ERROR = [{"outcome": "failed", "exception": "shop.SecretError", "message": "the password is 1234"}]


@pytest.fixture
def client(ada):
    client = Client()
    client.force_login(ada)
    return client


def jobs(response):
    assert response.status_code == 200, response.content
    return response.json()["jobs"]


def test_the_owner_of_a_token_sees_how_far_the_job_is(client, ada, token_of):
    worker = make_worker()
    job = make_running(worker.pk, progress={"done": 42, "total": 100, "message": "Reading"})
    (shown,) = jobs(client.get(URL, {"token": token_of(job, ada)}))
    assert (shown["state"], shown["label"], shown["percent"]) == ("running", "Running", 42)
    assert (shown["message"], shown["is_over"], shown["may_cancel"]) == ("Reading", False, False)
    assert "output" not in shown


def test_several_jobs_share_a_request_and_stay_in_order(client, ada, token_of):
    tokens = [token_of(make(state=state), ada) for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)]
    labels = [each["label"] for each in jobs(client.get(URL, {"token": tokens}))]
    assert labels == ["Done", "Failed", "Cancelled"]


@pytest.mark.parametrize("url", [URL, EVENTS])
def test_the_token_of_another_user_is_refused(ada, token_of, url):
    token = token_of(make(), ada)
    other = User.objects.create_user("eve")
    for user in (other, None):
        client = AsyncClient()
        if user is not None:
            client.force_login(user)
        response = async_to_sync(client.get)(url, {"token": token})
        assert response.status_code == 403
        assert str(make().pk) not in response.content.decode()


def test_no_token_a_foreign_one_among_good_ones_and_too_many_are_refused(client, ada, token_of):
    good, foreign = token_of(make(), ada), token_of(make(), SimpleNamespace(pk=ada.pk + 1))
    several = [good, foreign], [good] * (views.JOBS_AT_MOST + 1)
    for query in ({}, {"after": "1"}, *({"token": token} for token in ("", "forged", "a:b:c", *several))):
        assert client.get(URL, query).status_code == 403, query


def test_a_token_ends_after_an_hour_and_each_answer_has_a_new_one(client, ada, token_of, monkeypatch):
    token = token_of(make(), ada)
    (shown,) = jobs(client.get(URL, {"token": token}))
    assert jobs(client.get(URL, {"token": shown["token"]}))
    monkeypatch.setattr("pgonly_django.progress.tokens.VALID_FOR", timedelta(seconds=-1))
    assert client.get(URL, {"token": token}).status_code == 403


def test_a_failed_job_says_nothing_of_its_error(client, ada, token_of):
    job = make(state=State.FAILED, errors=ERROR, kwargs={"password": "1234"})
    response = client.get(URL, {"token": token_of(job, ada, shows_output=True)})
    assert jobs(response)[0]["label"] == "Failed"
    for secret in ("1234", "Secret", "tests.jobs"):
        assert secret not in response.content.decode()


def test_a_job_that_is_gone_is_over(client, ada, token_of):
    job = make()
    token = token_of(job, ada)
    job.delete()
    (shown,) = jobs(client.get(URL, {"token": token}))
    assert (shown["state"], shown["is_over"]) == ("gone", True)


def test_output_comes_from_the_offset_that_the_page_has(client, ada, token_of, server):
    job = make_running(make_worker().pk)
    for number, start, text in [(1, 0, "Hello"), (2, 5, " world")]:
        write_output(server, [SeenRow(str(job.pk), 1, place(1, number), start, text)])
    query = {"token": token_of(job, ada, shows_output=True)}
    (shown,) = jobs(client.get(URL, query))
    assert shown["output"] == {"text": "Hello world", "keep": 0, "offset": str(place(1, 2))}
    (shown,) = jobs(client.get(URL, {**query, "after": str(place(1, 1))}))
    assert shown["output"]["text"] == " world"
    for odd in ("-1", "x", "9" * 30, "\N{SUPERSCRIPT TWO}"):
        assert jobs(client.get(URL, {**query, "after": odd}))[0]["output"]["text"] == "Hello world"


def test_a_token_that_is_given_twenty_times_is_answered_once(client, ada, token_of, server):
    job = make_running(make_worker().pk)
    write_output(server, [SeenRow(str(job.pk), 1, place(1, 1), 0, "Hello")])
    query = {"token": [token_of(job, ada, shows_output=True)] * views.JOBS_AT_MOST}
    assert [each["output"]["text"] for each in jobs(client.get(URL, query))] == ["Hello"]
    assert len(jobs(client.get(URL, {**query, "after": ["0", "0", "1"]}))) == 2


def test_a_long_output_comes_in_bounded_answers(client, ada, token_of, server):
    job, text = make_running(make_worker().pk), "abc" * look.OF_AN_ANSWER
    write_output(server, [SeenRow(str(job.pk), 1, place(1, 1), 0, text)])
    type(job).objects.filter(pk=job.pk).update(state=State.SUCCEEDED)
    token, after, seen, is_over = token_of(job, ada, shows_output=True), "0", "", False
    while not is_over:
        (shown,) = jobs(client.get(URL, {"token": token, "after": after}))
        output, is_over = shown["output"], shown["is_over"]
        assert len(output["text"]) <= look.OF_AN_ANSWER
        seen = seen[: output["keep"]] + output["text"]
        after = output.get("next", output["offset"])
    assert seen == text


def test_a_waiting_job_says_that_no_live_worker_serves_its_queue(client, ada, token_of):
    query = {"token": token_of(make(queue="ai"), ada)}
    make_worker(queues=["mail"])
    assert jobs(client.get(URL, query))[0]["label"] == "Waiting: no live worker serves ai"
    make_worker(queues=["ai"])
    assert jobs(client.get(URL, query))[0]["label"] == "Waiting for a worker"
    Queue.objects.create(name="ai", paused_at=timezone.now())
    assert jobs(client.get(URL, query))[0]["label"] == "Waiting: ai is paused"


def test_a_job_whose_worker_is_silent_waits_for_takeover(client, ada, token_of):
    expires = timezone.now() + LEASE - timedelta(seconds=30)
    worker = make_worker(silent_for=timedelta(seconds=30))
    progress, times = {"done": 72, "total": 120}, {"attempted_at": expires - LEASE, "reported_at": expires}
    job = make_running(worker.pk, lease_expires_at=expires, progress=progress, **times)
    query = {"token": token_of(job, ada)}
    (shown,) = jobs(client.get(URL, query))
    assert shown["label"] == "Interrupted at 60 %. It continues when a worker is live"
    make_worker()
    (shown,) = jobs(client.get(URL, query))
    assert shown["label"] == "Interrupted at 60 %. It continues by itself within about 1 minute"
    assert shown["pace"] == "72 of 120"
    worker.heartbeat_at = timezone.now()
    worker.save()
    assert jobs(client.get(URL, query))[0]["label"] == "Running"


def test_the_clock_of_the_web_server_makes_no_worker_silent(client, ada, token_of, monkeypatch):
    query = {"token": token_of(make_running(make_worker().pk), ada)}
    ahead = timezone.now() + timedelta(minutes=5)
    monkeypatch.setattr("django.utils.timezone.now", lambda: ahead)
    assert jobs(client.get(URL, query))[0]["label"] == "Running"


def test_how_far_jobs_are_costs_one_statement_for_all_of_them(
    client, ada, token_of, django_assert_num_queries
):
    at, progress = ago(timedelta(minutes=1)), {"done": 5, "total": 10}
    running = [make_running(attempted_at=at, reported_at=timezone.now(), progress=progress) for _ in range(3)]
    wanted = [look.Wanted(Grant("default", str(job.pk))) for job in running]
    with django_assert_num_queries(1):
        shown = look.look(wanted)
    assert [each["pace"].partition(" ")[0] for each in shown] == ["5.0"] * 3


@pytest.mark.parametrize(
    ("total", "left"), [(7, r"2\d seconds"), (20, "3 minutes"), (505, "100 minutes"), (905, "3 hours")]
)
def test_the_time_that_is_left_is_said_in_words_that_are_translated(monkeypatch, total, left):
    progress, now = {"done": 5, "total": total}, timezone.now()
    job = make_running(attempted_at=now - timedelta(minutes=1), reported_at=now, progress=progress)
    wanted = [look.Wanted(Grant("default", str(job.pk)))]
    assert re.fullmatch(rf"5.0 per minute, {left} left", look.look(wanted)[0]["pace"])
    monkeypatch.setattr(look, "ngettext", lambda _one, _more, _count: "%(count)d in Polish")
    assert re.search(r", \d+ in Polish left$", look.look(wanted)[0]["pace"])


def test_what_is_ahead_says_when(client, ada, token_of):
    at = ago(timedelta(hours=-1))
    first, again = (make(state=State.SCHEDULED, run_at=at, attempt=attempt) for attempt in (0, 1))
    tokens = [token_of(first, ada), token_of(again, ada)]
    labels = [each["label"] for each in jobs(client.get(URL, {"token": tokens}))]
    assert labels[0].startswith("Begins at ")
    assert labels[1].startswith("Something went wrong. It is tried again at ")


@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        ({"question": "Include paper 7?"}, "Waits for your decision", "Include paper 7?"),
        ({"choices": ["yes", "no"]}, "Waits for your decision", ""),
        ({"key": "payment:7"}, "Waits for payment:7", ""),
        ({"key": end_of(str(uuid4()), 1)}, "Waits for its parts", ""),
    ],
)
def test_a_job_that_waits_says_for_what(client, ada, token_of, columns, label, message):
    (shown,) = jobs(client.get(URL, {"token": token_of(make_waiting(**columns).job, ada)}))
    assert (shown["state"], shown["label"], shown["message"]) == ("scheduled", label, message)


def test_a_job_that_sleeps_says_when_it_continues(client, ada, token_of):
    job = make_waiting(None, until=timezone.now() + timedelta(hours=1)).job
    (shown,) = jobs(client.get(URL, {"token": token_of(job, ada)}))
    assert shown["label"].startswith("Continues at ")


def test_an_answered_job_waits_for_a_worker(client, ada, token_of):
    query = {"token": token_of(make_waiting(question="Include paper 7?").job, ada)}
    send_event("approve:7", "include")
    assert jobs(client.get(URL, query))[0]["label"] == "Waiting: no live worker serves default"
    make_worker()
    assert jobs(client.get(URL, query))[0]["label"] == "Waiting for a worker"


def test_a_job_that_gathers_shows_how_far_its_parts_are(client, ada, token_of, render):
    job = make_gathering(succeeded=3, failed=1, ready=3).parent
    (shown,) = jobs(client.get(URL, {"token": token_of(job, ada)}))
    assert (shown["label"], shown["percent"]) == ("Waits for its parts", 57)
    assert shown["message"] == "4 of 7 ended, 1 failed"
    html = render("", job, ada)
    assert 'max="100" value="57"' in html
    assert ">4 of 7 ended, 1 failed</span>" in html


def test_what_jobs_wait_for_costs_one_statement_for_all_of_them(ada, django_assert_num_queries):
    make_worker()
    wanted = [look.Wanted(Grant("default", str(make_waiting(str(n)).job_id))) for n in range(3)]
    with django_assert_num_queries(4):  # the jobs, the workers, the pauses, the waits
        shown = look.look(wanted)
    assert [each["label"] for each in shown] == ["Waits for 0", "Waits for 1", "Waits for 2"]


def test_what_begins_within_a_minute_is_not_said_to_begin_in_the_past(client, ada, token_of):
    for at in (timezone.now() + timedelta(seconds=n) for n in (1, 30, 59)):
        (shown,) = jobs(client.get(URL, {"token": token_of(make(state=State.SCHEDULED, run_at=at), ada)}))
        full = (at + timedelta(minutes=1, microseconds=-1)).replace(second=0, microsecond=0)
        assert shown["label"] == f"Begins at {date_format(timezone.localtime(full), 'TIME_FORMAT')}"


def test_the_owner_may_cancel_with_a_token_that_allows_it(client, ada, token_of):
    job, kept = make(), make()
    allowed, forbidden = token_of(job, ada, may_cancel=True), token_of(kept, ada)
    assert jobs(client.get(URL, {"token": allowed}))[0]["may_cancel"]
    assert client.post(CANCEL, {"token": forbidden}).status_code == 403
    answer = client.post(CANCEL, {"token": allowed}, headers={"Accept": "application/json"})
    assert answer.json() == {"is_cancelled": True}
    assert (fresh(job).state, fresh(kept).state) == (State.CANCELLED, State.READY)
    assert client.get(CANCEL, {"token": allowed}).status_code == 405


@pytest.mark.parametrize(
    ("following", "goes_to"), [("/page/", "/page/"), ("https://evil.example/", "/"), ("", "/"), ("foo", "/")]
)
def test_cancel_without_javascript_goes_back_to_the_page(client, ada, token_of, following, goes_to):
    token = token_of(make(), ada, may_cancel=True)
    assert client.post(CANCEL, {"token": token, "next": following})["Location"] == goes_to


def test_cancel_is_refused_to_others_and_without_a_csrf_token(ada, token_of):
    job = make()
    token = token_of(job, ada, may_cancel=True)
    for client in (Client(), Client(enforce_csrf_checks=True)):
        if client.handler.enforce_csrf_checks:
            client.force_login(ada)
        assert client.post(CANCEL, {"token": token}).status_code == 403
    assert fresh(job).state == State.READY


def test_events_need_asgi(client, ada, token_of):
    assert client.get(EVENTS, {"token": token_of(make(), ada)}).status_code == 501
