"""Rows that no code of ours writes: every page of the admin opens all the same."""

from __future__ import annotations

from urllib.parse import quote
from uuid import uuid4

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from model_bakery import baker

from pgonly_django.models import (
    CacheEntry,
    Session,
    State,
    Worker,
)
from pgonly_django.sessions import SessionStore
from tests.admin.conftest import make_job
from tests.admin.test_workers import make_worker

pytestmark = pytest.mark.django_db


def make_entry(model=CacheEntry):
    return model.objects.create(key=f"answers:1:{uuid4()}", value=b"[1]", codec=1)


def make_session():
    session = SessionStore()
    session["_auth_user_id"] = str(baker.make(get_user_model()).pk)
    session.save()
    return Session.objects.for_key(session.session_key).get()


def overwrite(row, **values):
    """In SQL: no field of the model looks at the values."""
    assignments = ", ".join(f'"{column}" = %s' for column in values)
    key = row._meta.pk
    with connection.cursor() as cursor:
        cursor.execute(
            f'UPDATE {row._meta.db_table} SET {assignments} WHERE "{key.column}" = %s',
            [*values.values(), key.get_prep_value(row.pk)],
        )
    return row


OVERVIEW = "/admin/pgonly_django/"


def assert_overview_opens(browser):
    """With every panel."""
    answer = browser.get(OVERVIEW)
    assert answer.status_code == 200
    assert "pgonly-problem" not in answer.text


def assert_pages_open(browser, *rows):
    """The overview, the list with all of them, and the page of each."""
    assert_overview_opens(browser)
    home = f"/admin/pgonly_django/{rows[0]._meta.model_name}/"
    pages = [home, f"{home}?q=a"]
    if not isinstance(rows[0], Worker):
        pages += [f"{home}{quote(str(row.pk))}/change/" for row in rows]
    for page in pages:
        assert browser.get(page).status_code == 200, page


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_a_job_with_names_as_long_as_can_be_and_an_unknown_state(admin_client):
    job = overwrite(make_job(), queue="q" * 64, task="." * 255, state="\u202emystery", backend="")
    overwrite(job, attempt=-32768, max_attempts=32767, interruptions=-5, crashes=-1, worker_id=str(uuid4()))
    assert_pages_open(admin_client, job)


def test_sessions_of_users_that_cannot_be(admin_client):
    users = ("9" * 30, "-1", "", "x" * 10_000, "1.5", "infinity", "\u0661")
    odd = {"user_agent": "x/" * 50_000, "ip": "::ffff:1.2.3.4/96"}
    assert_pages_open(admin_client, *(overwrite(make_session(), user_id=user, **odd) for user in users))


def test_cache_entries_of_an_unknown_encoding_or_damaged(admin_client):
    damaged = [
        (-1, b""),
        (99, b"\x00"),
        (2, b"not JSON"),
        (12, b"not zlib"),
        (22, b"not zstd"),
        (2, b"[" * 100_000),
    ]
    entries = [overwrite(make_entry(), codec=codec, value=value) for codec, value in damaged]
    assert_pages_open(admin_client, *entries)


TERMS = [
    'a="\\u0000"', 'a="\\ud800"', "a=1e400", "a=" + "9" * 5_000, "a=" + nested(3_000), "a=" + nested(50_000), "a=NaN",
    "\u202e", "%", "\\", "a='", "{", "\ufffd", "x" * 10_000, "9" * 100, "1.2.3.4/99", "::1%eth0", "\x7f", "a\tb",
    "\x00",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["job", "session"])
def test_any_search_has_an_answer(admin_client, name):
    make_job(kwargs={"a": 1})
    for term in TERMS:
        assert admin_client.get(f"/admin/pgonly_django/{name}/", {"q": term}).status_code in (200, 302), term


PARAMETERS = [
    {"p": "-1"}, {"p": "9" * 30}, {"p": "x"}, {"p": "\x00"}, {"o": "9"}, {"o": "-1.x"}, {"all": ""}, {"e": "1"},
    {"state": "\x00"}, {"state": "x"}, {"state__exact": "\x00"}, {"state__exact": "x"}, {"queue": "\x00"},
    {"queue": "x" * 100}, {"task": "\x00"}, {"last_seen_at__gte": "\x00"}, {"last_seen_at__isnull": "x"},
    {"last_seen_at__gte": "0001-01-01 00:00+14:00"}, {"last_seen_at__lt": "9999-12-31 23:59:59-12:00"},
    {"_facets": "True"}, {"_popup": "1"}, {"_to_field": "id"}, {"whole": "\x00"}, {"whole": "x", "q": "x"},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["job", "session", "worker"])
def test_any_parameter_has_an_answer(admin_client, name):
    make_session(), make_job(), make_worker()
    for parameters in PARAMETERS:
        answer = admin_client.get(f"/admin/pgonly_django/{name}/", parameters)
        assert answer.status_code in (200, 302, 400), parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "action"), [("job", "retry_jobs"), ("job", "delete_selected"), ("session", "delete_selected")]
)
def test_a_selection_of_keys_that_cannot_be_changes_nothing(admin_client, name, action):
    job, session = make_job(State.FAILED), make_session()
    for keys in ([], ["zz"], ["\x00"], ["00"], ["x" * 64], ["9" * 5000], ["\ud7ff"], ["", "0190" * 8]):
        for more in ({}, {"index": "9"}, {"index": "x"}, {"confirmed": "yes", "counted": "9" * 5000}):
            data = {"action": action, "_selected_action": keys, **more}
            assert admin_client.post(f"/admin/pgonly_django/{name}/", data).status_code in (200, 302), data
    assert type(job).objects.filter(pk=job.pk, state=State.FAILED).exists()
    assert type(session).objects.filter(pk=session.pk).exists()


def test_of_a_selection_the_keys_that_can_be_are_taken(admin_client):
    session = make_session()
    data = {"action": "delete_selected", "_selected_action": ["zz", session.pk]}
    assert admin_client.post("/admin/pgonly_django/session/", data).status_code == 302
    assert not Session.objects.filter(pk=session.pk).exists()


KEYS = ["x", "\x00", "%00", "00" * 32, "zz" * 32, "00" * 31, "9" * 100, "_3D", "0190" * 8, "ä", "a:1:\ud7ff"]


@pytest.mark.parametrize("name", ["job", "session", "worker", "cacheentry"])
def test_any_address_has_an_answer(admin_client, name):
    for key in map(quote, KEYS):
        home = f"/admin/pgonly_django/{name}/{key}"
        assert admin_client.get(f"{home}/change/").status_code in (302, 403, 404), key
        assert admin_client.post(f"{home}/delete/", {"post": "yes"}).status_code in (302, 403, 404), key
        assert admin_client.post(f"/admin/pgonly_django/job/{key}/operate/retry/").status_code == 404
