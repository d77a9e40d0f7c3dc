"""Real servers, a real database and HTTP clients with cookies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from benchmarks.servers import free_port
from tests.in_memory import new_server
from tests.serving import AppServer

pytestmark = [pytest.mark.process, pytest.mark.server, pytest.mark.slow]

OURS = "pgonly_django.sessions"
DJANGOS = "django.contrib.sessions.backends.db"
REQUESTS = 50


@pytest.fixture(scope="module")
def database():
    # Two app servers with 50 requests each may be connected at once.
    with new_server(free_port(), ("max_connections=200",)) as server:
        yield server


def app_server(kind: str, database_url: str, engine: str) -> AppServer:
    settings = "tests.sessions.server_settings"
    return AppServer(kind, database_url, settings, probe="/whoami/", variables={"SESSION_ENGINE": engine})


@pytest.fixture(scope="module", params=["gunicorn", "uvicorn"])
def app(request, database):
    server = app_server(request.param, database.url(), OURS)
    server.migrate()
    server.start()
    yield server
    server.kill()


@contextmanager
def logged_in(app: AppServer, name: str):
    with httpx.Client(base_url=app.url, timeout=30) as client:
        client.get(f"/log-in/{name}/").raise_for_status()
        assert client.get("/whoami/").text == name
        yield client


def test_a_login_survives_a_killed_server_and_a_crashed_database(app, database):
    with logged_in(app, "ada") as client:
        app.kill()
        database.restart("immediate")
        app.start()
        assert client.get("/whoami/").text == "ada"


def test_a_database_restart_between_two_requests_costs_no_request(app, database):
    with logged_in(app, "ada") as client:
        database.restart()
        assert [client.get("/whoami/").text for _ in range(10)] == ["ada"] * 10
    app.kill()  # its other threads may hold dead connections still, and /log-in/ begins without a session
    app.start()


def set_in_parallel(app: AppServer) -> int:
    """How many of the keys are there after 50 parallel requests of one browser, each with its own."""
    with logged_in(app, "ada") as client, ThreadPoolExecutor(REQUESTS) as pool:
        cookies = dict(client.cookies)
        url = f"{app.url}/set/key-%d/"
        set_one = lambda number: httpx.get(url % number, cookies=cookies, timeout=60).raise_for_status()  # noqa: E731
        list(pool.map(set_one, range(REQUESTS)))
        return sum(key.startswith("key-") for key in client.get("/keys/").json())


def test_of_fifty_parallel_requests_every_one_keeps_its_key(app, database, record_property):
    ours = set_in_parallel(app)
    beside = app_server(app.kind, app.database_url, DJANGOS)
    beside.start()
    try:
        djangos = set_in_parallel(beside)
    finally:
        beside.kill()
    record_property("kept of 50", {OURS: ours, DJANGOS: djangos})
    print(f"kept of {REQUESTS} under {app.kind}: {OURS} {ours}, {DJANGOS} {djangos}")
    assert ours == REQUESTS
    assert djangos < REQUESTS


def test_signing_out_elsewhere_ends_the_other_browsers_session_at_its_next_request(app):
    with (
        logged_in(app, "grace") as phone,
        logged_in(app, "grace") as laptop,
        logged_in(app, "ada") as other,
    ):
        page = laptop.get("/devices/").text
        token = page.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
        answer = laptop.post("/devices/sign-out-others/", data={"csrfmiddlewaretoken": token})
        assert answer.status_code == 302
        assert phone.get("/whoami/").text == ""
        assert laptop.get("/whoami/").text == "grace"
        assert other.get("/whoami/").text == "ada"


def test_async_views_keep_every_key_too(app):
    with logged_in(app, "ada") as client, ThreadPoolExecutor(8) as pool:
        cookies = dict(client.cookies)
        get = lambda n: httpx.get(f"{app.url}/aset/akey-{n}/", cookies=cookies, timeout=60)  # noqa: E731
        assert {answer.status_code for answer in pool.map(get, range(16))} == {200}
        assert sum(key.startswith("akey-") for key in client.get("/keys/").json()) == 16
