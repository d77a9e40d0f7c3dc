from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import RequestFactory

from pgonly_django.middleware import client_ip
from pgonly_django.models import Session
from tests.sessions.rows import seen_seconds_ago
from tests.sql import sql

pytestmark = pytest.mark.django_db

OURS = "pgonly_django.middleware.SessionMiddleware"


@pytest.fixture(autouse=True)
def _our_middleware(settings):
    settings.MIDDLEWARE = [OURS, *settings.MIDDLEWARE[1:]]


def log_in(client, **headers) -> Session:
    client.force_login(get_user_model().objects.create_user("ada"))
    seen_seconds_ago(3600)
    assert client.get("/whoami/", **headers).content == b"ada"
    return Session.objects.get()


def test_a_request_that_changed_nothing_notes_from_where_and_when(client):
    session = log_in(client, REMOTE_ADDR="203.0.113.7", HTTP_USER_AGENT="Browser\x00" + "x" * 1000)
    assert session.ip == "203.0.113.7"
    assert session.user_agent == ("Browser" + "x" * 1000)[:512]
    assert session.last_seen_at > session.created_at


@pytest.mark.parametrize(
    "agent", ["\ud800 half a pair", "\udcff\udcfe bytes of a server's own making", "\xff\xfe", "🔥"]
)
def test_a_user_agent_that_is_no_text_costs_no_response(client, agent):
    log_in(client, HTTP_USER_AGENT=agent)
    assert Session.objects.get().user_agent == agent.encode("utf-8", "replace").decode()


def test_a_touch_leaves_the_expiry_as_it_was(client):
    session = log_in(client)
    seen_seconds_ago(61)
    client.get("/whoami/")
    assert Session.objects.get().expires_at == session.expires_at


@pytest.mark.parametrize(
    ("pgonly", "seconds", "queries"),
    [({}, 0, 2), ({}, 61, 3), ({"SESSION_TOUCH_SECONDS": 600}, 500, 2)],  # the session, the user, and a write
)
def test_a_request_writes_once_a_minute_or_as_often_as_is_set(
    client, settings, django_assert_num_queries, pgonly, seconds, queries
):
    log_in(client)
    settings.PGONLY = pgonly
    seen_seconds_ago(seconds)
    with django_assert_num_queries(queries):
        client.get("/whoami/")


def test_a_request_whose_view_fails_does_not_count_as_use(client):
    log_in(client)
    seen_seconds_ago(3600)
    before = Session.objects.get().last_seen_at
    with pytest.raises(RuntimeError, match="for ada"):
        client.get("/fail/")
    client.raise_request_exception = False
    assert client.get("/fail/").status_code == 500
    assert Session.objects.get().last_seen_at == before


def test_save_every_request_slides_the_expiry_at_most_once_a_minute(
    client, settings, django_assert_num_queries
):
    settings.SESSION_SAVE_EVERY_REQUEST = True
    session = log_in(client)
    with django_assert_num_queries(2):
        assert "sessionid" in client.get("/whoami/").cookies
    seen_seconds_ago(61)
    with django_assert_num_queries(3):
        client.get("/whoami/")
    assert Session.objects.get().expires_at > session.expires_at


@pytest.mark.django_db(transaction=True)
def test_a_database_that_has_become_read_only_costs_no_response(client, caplog):
    log_in(client)
    seen_seconds_ago(61)
    sql("SET default_transaction_read_only = on")
    try:
        assert client.get("/whoami/").content == b"ada"
    finally:
        connection.close()
    assert "could not be written" in caplog.text


def test_a_request_without_a_session_writes_nothing(client, django_assert_num_queries):
    with django_assert_num_queries(0):
        client.get("/whoami/")


def test_an_ended_session_is_not_touched_back_to_life(client):
    log_in(client)
    Session.objects.all().revoke()
    assert client.get("/whoami/").content == b""
    assert not Session.objects.exists()


def test_a_login_and_a_logout_leave_nothing_behind(client):
    client.get("/log-in/ada/")
    assert Session.objects.get().user_id == str(get_user_model().objects.get().pk)
    client.get("/log-out/")
    assert not Session.objects.exists()


@pytest.mark.parametrize(
    ("proxies", "header", "remote", "expected"),
    [
        (0, "1.1.1.1", "9.9.9.9", "9.9.9.9"),
        (1, "6.6.6.6, 1.1.1.1", "9.9.9.9", "1.1.1.1"),
        (2, "6.6.6.6, 1.1.1.1, 2.2.2.2", "9.9.9.9", "1.1.1.1"),
        (2, "1.1.1.1", "9.9.9.9", "9.9.9.9"),
        (1, "", "9.9.9.9", "9.9.9.9"),
        (1, None, "9.9.9.9", "9.9.9.9"),
        (1, "6.6.6.6,", "9.9.9.9", None),
        (0, "", "::ffff:9.9.9.9", "9.9.9.9"),
        (1, "::ffff:1.1.1.1", "::1", "1.1.1.1"),
        (1, "1.1.1.1:4321", "9.9.9.9", "1.1.1.1"),
        (1, "[2001:db8::1]:4321", "9.9.9.9", "2001:db8::1"),
        (1, "fe80::1%eth0", "9.9.9.9", "fe80::1"),
        (1, "'; DROP TABLE", "9.9.9.9", None),
        (0, "", "", None),
    ],
)
def test_the_address_is_the_one_the_outermost_trusted_proxy_heard(
    settings, proxies, header, remote, expected
):
    settings.PGONLY = {"SESSION_TRUSTED_PROXIES": proxies}
    request = RequestFactory().get(
        "/", REMOTE_ADDR=remote, headers=header is not None and {"x-forwarded-for": header}
    )
    assert client_ip(request) == expected
