"""A stream of events: what it tells, and when it ends."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import User
from django.test import AsyncClient, Client, RequestFactory
from django.utils import timezone
from django.utils.decorators import async_only_middleware

from pgonly_django.models import Job, State
from pgonly_django.progress import looker, stream
from pgonly_django.progress.look import OF_AN_EVENT, Wanted
from pgonly_django.progress.tokens import VISITOR, Grant
from pgonly_django.queue.output import SeenRow, place, write_output
from pgonly_django.sessions import revoke_all
from tests.queue.rows import make_running, make_worker

pytestmark = pytest.mark.django_db(transaction=True)
EVENTS = "/pgonly/progress/events/"
ENGINES = ["pgonly_django.sessions", "django.contrib.sessions.backends.db"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(stream, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(stream, "SESSION_SECONDS", 0.1)
    monkeypatch.setattr(looker, "IDLE_SECONDS", 0.2)


@pytest.fixture(params=ENGINES)
def engine(request, settings):
    settings.SESSION_ENGINE = request.param


@pytest.fixture
def sign_in(ada):
    """Ada in a browser that listens, and in one that acts: both have the same session."""

    def sign_in():
        listening, acting = AsyncClient(), Client()
        acting.force_login(ada)
        listening.cookies = acting.cookies
        return listening, acting

    return sign_in


def listen(client, token, act=None, most=1_000, **headers):
    """The events of the stream, `most` of them at most. `act` is called behind each."""

    async def collect():
        response = await client.get(EVENTS, {"token": token}, headers=headers)
        assert (response.status_code, response["Content-Type"]) == (200, "text/event-stream")
        seen = []
        async for event in response.streaming_content:
            seen.append(event.decode())
            if len(seen) == most:
                break
            if act is not None:
                await sync_to_async(act)()
        return seen

    async def in_time():
        return await asyncio.wait_for(collect(), 20)

    return async_to_sync(in_time)()


def job_in(event):
    (job,) = json.loads(event.partition("data: ")[2])["jobs"]
    return job


def log_out(_ada, acting):
    acting.logout()


def revoke(ada, acting):
    session = acting.session
    revoke_all(ada) if hasattr(session, "codec") else session.delete()


def change_password(ada, _acting):
    ada.set_password("another")
    ada.save()


def deactivate(ada, _acting):
    User.objects.filter(pk=ada.pk).update(is_active=False)


def delete(ada, _acting):
    ada.delete()


def sign_in_as_somebody_else(_ada, acting):
    session = acting.session
    session[SESSION_KEY] = str(User.objects.create_user("eve").pk)
    session.save()


ENDS = [log_out, revoke, change_password, deactivate, delete, sign_in_as_somebody_else]


@pytest.mark.sample(2)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.usefixtures("engine")
def test_it_ends_when_its_user_is_signed_in_no_more(ada, token_of, sign_in, end):
    job = make_running(make_worker().pk)
    listening, acting = sign_in()
    seen = listen(listening, token_of(job, ada), lambda: end(ada, acting))
    assert len(seen) == 1
    assert "event: over" not in seen[0]
    assert async_to_sync(listening.get)("/pgonly/progress/", {"token": token_of(job, ada)}).status_code == 403


def test_it_ends_with_the_session_of_a_visitor():
    job, client = make_running(make_worker().pk), AsyncClient()
    session = client.session
    session[VISITOR] = "x" * 32
    session.save()
    token = Grant("default", str(job.pk)).token(f"visitor {'x' * 32}")
    assert len(listen(client, token, session.delete)) == 1


def test_it_goes_on_while_the_session_lives(ada, token_of, sign_in, monkeypatch):
    monkeypatch.setattr(stream, "SESSION_SECONDS", 0.0)
    job = make_running(make_worker().pk, progress={"done": 0, "total": 10})
    listening, acting = sign_in()

    def progress():
        acting.get("/admin/login/")
        rows = type(job).objects.filter(pk=job.pk)
        done = rows.get().progress["done"] + 1
        rows.update(progress={"done": done, "total": 10}, state=State.RUNNING)

    seen = listen(listening, token_of(job, ada), progress, most=5)
    assert [job_in(event)["percent"] for event in seen] == [0, 10, 20, 30, 40]


@async_only_middleware
def token_authentication(get_response):
    """Who it is says a header, say, and no session."""

    async def middleware(request):
        request.user = await User.objects.aget(username="ada")
        return await get_response(request)

    return middleware


def test_it_does_not_end_where_no_session_says_who_it_is(ada, token_of, settings, monkeypatch):
    monkeypatch.setattr(stream, "SESSION_SECONDS", 0.0)
    settings.MIDDLEWARE = [f"{__name__}.token_authentication"]
    job = make_running(make_worker().pk)

    def finish():
        type(job).objects.filter(pk=job.pk).update(state=State.SUCCEEDED)

    assert listen(AsyncClient(), token_of(job, ada), finish)[-1].startswith("event: over")


def test_a_look_reads_no_session(ada, token_of, sign_in, monkeypatch, statements):
    monkeypatch.setattr(stream, "SESSION_SECONDS", 10.0)
    monkeypatch.setattr(stream, "LONGEST_SECONDS", 0.5)
    job, (listening, _acting) = make_running(make_worker().pk), sign_in()
    listen(listening, token_of(job, ada), statements.clear)
    asked = [sql for _, sql in statements if sql]
    assert any("pgonly_job" in sql for sql in asked)
    assert [sql for sql in asked if "session" in sql or "auth_user" in sql] == []


def test_events_tell_of_changes_until_the_job_is_over(ada, token_of, server):
    job, client = make_running(make_worker().pk), AsyncClient()
    write_output(server, [SeenRow(str(job.pk), 1, place(1, 1), 0, "Hello")])
    client.force_login(ada)
    token = token_of(job, ada, shows_output=True)

    def finish():
        write_output(server, [SeenRow(str(job.pk), 1, place(1, 2), 5, " world")])
        type(job).objects.filter(pk=job.pk).update(state=State.SUCCEEDED)

    *events, end = listen(client, token, finish)
    assert job_in(events[0])["output"]["text"] == "Hello"
    assert "".join(job_in(event)["output"]["text"] for event in events) == "Hello world"
    assert end == "event: over\ndata: {}\n\n"
    resumed = listen(client, token, **{"Last-Event-ID": str(place(1, 1))})
    assert job_in(resumed[0])["output"]["text"] == " world"


def write_long(server, job, *lengths):
    """Rows of output of these lengths. Returns all of it."""
    text = ""
    for number, length in enumerate(lengths, 1):
        row = "".join(f"{number}.{at}," for at in range(length))[:length]
        write_output(server, [SeenRow(str(job.pk), 1, place(1, number), len(text), row)])
        text += row
    type(job).objects.filter(pk=job.pk).update(state=State.SUCCEEDED)
    return text


def read_all(client, token, **headers):
    *events, end = listen(client, token, **headers)
    assert end.startswith("event: over")
    return events


def applied(text, events):
    for event in events:
        output = job_in(event)["output"]
        text = text[: len(text) if output["keep"] is None else output["keep"]] + output["text"]
    return text


ROWS = [
    (3 * OF_AN_EVENT + 7, 5),
    (5, 2 * OF_AN_EVENT, OF_AN_EVENT),
    (4 * OF_AN_EVENT,),
    (OF_AN_EVENT // 3,) * 9,
]


@pytest.mark.slow
@pytest.mark.parametrize("lengths", ROWS)
def test_a_long_output_comes_in_bounded_events(ada, token_of, server, lengths):
    job, client = make_running(make_worker().pk), AsyncClient()
    text = write_long(server, job, *lengths)
    client.force_login(ada)
    token = token_of(job, ada, shows_output=True)
    events = read_all(client, token)
    assert max(map(len, events)) < 2 * OF_AN_EVENT + 1_000
    assert applied("", events) == text
    for number, event in enumerate(events[:-1], 1):
        last = event.partition("id: ")[2].partition("\n")[0]
        rest = read_all(client, token, **{"Last-Event-ID": last})
        assert applied(applied("", events[:number]), rest) == text


async def take_one_event_of(request, wanted, owner):
    """As a server whose client takes nothing behind the first event."""
    async for _ in stream.stream(request, [wanted], owner):
        await asyncio.Event().wait()


@pytest.mark.parametrize("end", ["the time is over", "its user has signed out"])
def test_it_ends_while_its_client_takes_nothing(ada, request_of, monkeypatch, end):
    monkeypatch.setattr(stream, "TAKEN_WITHIN_SECONDS", 0.1)
    if end == "the time is over":
        monkeypatch.setattr(stream, "LONGEST_SECONDS", 0.1)
    acting, job = Client(), make_running(make_worker().pk)
    acting.force_login(ada)
    request = RequestFactory().get("/")
    request.session = acting.session
    assert request.session[SESSION_KEY]
    wanted = Wanted(Grant("default", str(job.pk)))

    async def blocked():
        task = asyncio.create_task(take_one_event_of(request, wanted, f"user {ada.pk}"))
        if end == "its user has signed out":
            await sync_to_async(acting.logout)()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)
        assert task.cancelled()

    async_to_sync(blocked)()
    assert not stream._streams


def test_a_process_with_many_streams_refuses_another_one_for_a_while(ada, token_of, monkeypatch):
    monkeypatch.setattr(stream, "STREAMS_AT_MOST", 1)
    client = AsyncClient()
    client.force_login(ada)
    asked = {"token": token_of(make_running(make_worker().pk), ada)}

    async def open_three():
        first = aiter((await client.get(EVENTS, asked)).streaming_content)
        await anext(first)
        second = await client.get(EVENTS, asked)
        await Job.objects.aupdate(state=State.SUCCEEDED, finished_at=timezone.now())
        async for _ in first:
            pass  # until it ends, since its job has
        return second, await client.get(EVENTS, asked)

    second, third = async_to_sync(open_three)()
    assert (second.status_code, second["Retry-After"], third.status_code) == (503, "30", 200)
