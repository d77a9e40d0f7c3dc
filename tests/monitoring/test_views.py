"""metrics/ over HTTP: who may read it, and how it answers."""

from __future__ import annotations

import importlib
import json
import socket
import sys
import time

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import AsyncClient

from benchmarks.servers import free_port
from tests.aliases import alias

pytest.importorskip("prometheus_client")

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.monitoring.urls")]
TOKEN = "a token of a scraper"


@pytest.fixture
def with_token(settings):
    settings.PGONLY = {**settings.PGONLY, "METRICS_TOKEN": TOKEN}
    return {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \xff"]
)
def test_a_wrong_token_is_refused(client, with_token, given):
    answer = client.get("/metrics", HTTP_AUTHORIZATION=given)
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
    assert TOKEN not in answer.content.decode()


def test_without_a_token_in_the_settings_it_is_no_page_but_for_staff_that_may_view_jobs(client):
    for given in ("", "Bearer ", "Bearer x"):
        assert client.get("/metrics", HTTP_AUTHORIZATION=given).status_code == 404
    for facts, permission, status in (
        ({"is_staff": True}, "view_job", 200),
        ({"is_staff": True}, "view_queue", 404),
        ({"is_staff": True, "is_active": False}, "view_job", 404),
        ({}, "view_job", 404),
    ):
        user = User.objects.create_user(f"user {User.objects.count()}", **facts)
        user.user_permissions.set(Permission.objects.filter(codename=permission))
        client.force_login(user)
        assert client.get("/metrics").status_code == status


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_the_token_opens_it(client, with_token, path):
    answer = client.get(path, **with_token)
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'pgonly_up{database="default"} 1.0' in answer.content


def test_a_scraper_gets_the_format_and_the_names_that_it_asks_for(client, with_token):
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    answer = client.get("/metrics", HTTP_ACCEPT=accept, **with_token)
    assert answer["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.content.endswith(b"# EOF\n")
    answer = client.get("/metrics?name[]=pgonly_up", **with_token)
    lines = [line for line in answer.content.decode().splitlines() if line[0] != "#"]
    assert lines == ['pgonly_up{database="default"} 1.0']
    assert client.post("/metrics", **with_token).status_code == 405
    assert client.head("/metrics", **with_token).content == b""


def test_no_middleware_keeps_the_answer_or_asks_a_scraper_to_log_in(client, with_token, settings):
    settings.MIDDLEWARE = [
        "django.middleware.http.ConditionalGetMiddleware",
        *settings.MIDDLEWARE,
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    answer = client.get("/metrics", **with_token)
    assert answer.status_code == 200
    assert "ETag" not in answer
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.django_db(transaction=True)
def test_it_needs_no_transaction_of_the_request(client, with_token):
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        assert client.get("/metrics", **with_token).status_code == 200
        assert connection.connection is None or not connection.in_atomic_block
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False


def down(settings, port):
    ours = settings.TASKS["default"]
    settings.TASKS = {"default": {**ours, "OPTIONS": {"database": "gone"}}}
    return alias("gone", HOST="127.0.0.1", PORT=port)


@pytest.mark.django_db(transaction=True)
def test_with_a_dead_database_it_says_so(client, with_token, settings, any_database):
    with down(settings, free_port()):
        answer = client.get("/metrics", **with_token)
    assert answer.status_code == 200
    assert b'pgonly_up{database="gone"} 0.0' in answer.content


@pytest.mark.django_db(transaction=True)
def test_it_answers_within_the_time_that_the_scraper_waits(client, with_token, settings, any_database):
    with socket.create_server(("127.0.0.1", 0)) as silent, down(settings, silent.getsockname()[1]):
        began = time.monotonic()
        answer = client.get("/metrics", HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS="1", **with_token)
        took = time.monotonic() - began
    assert b'pgonly_up{database="gone"} 0.0' in answer.content
    assert took < 5


def test_a_strange_time_is_no_error(client, with_token):
    for wait in ("nan", "inf", "-1", "", "soon"):
        answer = client.get("/metrics", HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS=wait, **with_token)
        assert answer.status_code == 200


def test_a_short_token_is_refused(settings):
    from pgonly_django.conf import settings as ours

    settings.PGONLY = {"METRICS_TOKEN": "hunter2"}
    with pytest.raises(ImproperlyConfigured, match="at least 16 characters, got 7") as refused:
        ours()
    assert "hunter2" not in json.dumps(str(refused.value))


@pytest.mark.django_db(transaction=True)
def test_under_asgi_it_answers_as_well(with_token):
    headers = {"authorization": with_token["HTTP_AUTHORIZATION"]}
    answer = async_to_sync(AsyncClient().get)("/metrics", headers=headers)
    assert answer.status_code == 200
    assert b'pgonly_up{database="default"} 1.0' in answer.content


@pytest.mark.parametrize(
    ("module", "package", "distribution"),
    [
        ("prometheus", "prometheus_client", "prometheus-client"),
        ("health_checks", "health_check.exceptions", "django-health-check"),
        ("opentelemetry", "opentelemetry", "opentelemetry-api"),
        ("sentry", "sentry_sdk", "'sentry-sdk"),
    ],
)
def test_without_the_package_an_error_says_what_to_install(monkeypatch, module, package, distribution):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"pgonly_django.monitoring.{module}", raising=False)
    with pytest.raises((ImproperlyConfigured, ImportError), match=f"pip install {distribution}"):
        importlib.import_module(f"pgonly_django.monitoring.{module}")
