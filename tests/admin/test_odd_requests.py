"""Addresses, searches and selections that no page of ours makes get an answer, and so do rows that cannot be read."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from django.utils import timezone, translation

from pgonly_django.models import (
    Budget,
    Checkpoint,
    JobStats,
    Limiter,
    Queue,
    Schedule,
    State,
    Step,
)
from tests.admin.conftest import make_entry, make_job, make_session
from tests.admin.rows import all_pages
from tests.admin.test_workers import make_worker

pytestmark = pytest.mark.django_db

HOME = "/admin/pgonly_django/"


def assert_pages_open(browser, *rows):
    """The overview with every panel, the list with all of the rows, and the page of each."""
    assert "pgonly-problem" not in browser.get(HOME).text
    home = f"{HOME}{rows[0]._meta.model_name}/"
    for page in (home, f"{home}?q=a", *(f"{home}{quote(str(row.pk))}/change/" for row in rows)):
        assert browser.get(page).status_code == 200, page


@pytest.mark.parametrize(
    ("zone", "use_tz", "language"), [("Pacific/Kiritimati", True, "ar"), ("Asia/Kathmandu", False, "en")]
)
def test_every_page_opens_in_other_zones_and_languages(admin_client, settings, zone, use_tz, language):
    settings.TIME_ZONE, settings.USE_TZ = zone, use_tz
    with translation.override(language):
        for page in all_pages(HOME):
            answer = admin_client.get(page)
            assert answer.status_code == 200, page
            assert "pgonly-problem" not in answer.text, page


def test_users_of_another_user_model_are_named_by_their_ids(admin_client):
    users = ("9" * 30, "-1", "x" * 10_000, "\u0661")
    odd = {"user_agent": "x/" * 50_000, "ip": "::ffff:1.2.3.4"}
    assert_pages_open(admin_client, *(make_session(user_id=user, **odd) for user in users))


def test_cache_entries_of_an_unknown_encoding_or_damaged(admin_client):
    damaged = [(-1, b""), (99, b"\x00"), (2, b"not JSON"), (12, b"not zlib"), (22, b"not zstd")]
    assert_pages_open(admin_client, *(make_entry(codec=codec, value=value) for codec, value in damaged))


TERMS = [
    'a="\\u0000"', "a=1e400", "a=" + "9" * 5_000, "a=" + "[" * 3_000, "a=NaN", "%", "\\", "{", "x" * 10_000,
    "1.2.3.4/99", "::1%eth0", "a\tb", "\x00",
]  # fmt: skip


@pytest.mark.parametrize("name", ["job", "session", "cacheentry"])
def test_any_search_has_an_answer(admin_client, name):
    make_job(kwargs={"a": 1})
    for term in TERMS:
        assert admin_client.get(f"{HOME}{name}/", {"q": term}).status_code in (200, 302), term


PARAMETERS = [
    {"p": "-1"}, {"p": "9" * 30}, {"p": "x"}, {"o": "9"}, {"o": "-1.x"}, {"all": ""}, {"e": "1"}, {"state": "x"},
    {"state__exact": "\x00"}, {"state__exact": "x"}, {"queue": "\x00"}, {"last_seen_at__gte": "\x00"},
    {"last_seen_at__isnull": "x"}, {"last_seen_at__gte": "0001-01-01 00:00+14:00"}, {"_facets": "True"},
    {"_popup": "1"}, {"_to_field": "id"}, {"whole": "x", "q": "x"},
]  # fmt: skip


@pytest.mark.parametrize("name", ["job", "session", "worker"])
def test_any_parameter_has_an_answer(admin_client, name):
    make_session(), make_job(), make_worker()
    for parameters in PARAMETERS:
        answer = admin_client.get(f"{HOME}{name}/", parameters)
        assert answer.status_code in (200, 302, 400), parameters


def test_a_selection_of_nothing_changes_nothing(admin_client):
    job = make_job(State.FAILED)
    for more in ({}, {"index": "9"}, {"index": "x"}, {"confirmed": "yes", "counted": "9" * 5000}):
        data = {"action": "retry_jobs", "_selected_action": [], **more}
        assert admin_client.post(f"{HOME}job/", data).status_code in (200, 302), data
    assert type(job).objects.filter(pk=job.pk, state=State.FAILED).exists()


@pytest.mark.parametrize(("name", "action"), [("job", "retry_jobs"), ("session", "delete_selected")])
def test_a_selection_of_keys_that_cannot_be_changes_nothing(admin_client, name, action):
    job, session = make_job(State.FAILED), make_session()
    for key in ("x", "\x00", "x" * 64, "9" * 5000, ""):
        data = {"action": action, "_selected_action": [key]}
        assert admin_client.post(f"{HOME}{name}/", data).status_code in (200, 302), key
    assert type(job).objects.filter(pk=job.pk, state=State.FAILED).exists()
    assert type(session).objects.filter(pk=session.pk).exists()


def test_of_a_selection_the_keys_that_can_be_are_taken(admin_client):
    session = make_session()
    data = {"action": "delete_selected", "_selected_action": ["zz", session.pk]}
    assert admin_client.post(f"{HOME}session/", data).status_code == 302
    assert not type(session).objects.filter(pk=session.pk).exists()


@pytest.mark.parametrize("name", ["job", "session", "worker", "cacheentry"])
def test_any_address_has_an_answer(admin_client, name):
    for key in map(quote, ("x", "\x00", "00" * 32, "9" * 100, "_3D", "ä")):
        home = f"{HOME}{name}/{key}"
        assert admin_client.get(f"{home}/change/").status_code in (302, 403, 404), key
        assert admin_client.post(f"{home}/delete/", {"post": "yes"}).status_code in (302, 403, 404), key
        assert admin_client.post(f"{HOME}job/{key}/operate/retry/").status_code == 404


EVIL = "<script>alert(1)</script>"


def test_nothing_of_a_row_is_ever_markup(admin_client):
    at, names = timezone.now(), {"name": EVIL}
    worker = make_worker(name=EVIL, hostname=EVIL, queues=[EVIL])
    (
        Queue.objects.create(**names, paused_at=at),
        Limiter.objects.create(**names),
        Budget.objects.create(**names, usd=1),
    )
    Schedule.objects.create(**names, task=EVIL, every_seconds=60, problem=EVIL)
    stats = {"granularity": "minute", "queue": EVIL, "task": EVIL, "run_times": [1]}
    JobStats.objects.create(starts_at=at, succeeded=1, **stats)
    run = {"outcome": EVIL, "worker": EVIL, "started_at": at.isoformat(), "finished_at": at.isoformat()}
    job = make_job(
        State.RUNNING, worker_id=worker.pk, task=f"shop.{EVIL}", queue=EVIL, args=[EVIL], kwargs={EVIL: EVIL},
        options={"x": EVIL}, result=EVIL, progress={"done": 1, "total": 2, "message": EVIL},
        errors=[{**run, "exception": EVIL, "message": EVIL, "traceback": EVIL}, {"reason": EVIL}],
        log=[{"at": at.isoformat(), "text": EVIL}],
    )  # fmt: skip
    Checkpoint.objects.create(job=job, value=EVIL, positions={EVIL: 1})
    Step.objects.create(job=job, name=EVIL, result=EVIL)
    waits = make_job(task=f"shop.{EVIL}", queue=EVIL, kwargs={EVIL: EVIL})
    make_session(user_id=EVIL)
    pages = [
        f"job/{pk}/{page}/" for pk, page in ((waits.pk, "change"), (waits.pk, "edit"), (job.pk, "again"))
    ]
    lists = [f"{name}/" for name in ("job", "worker", "queue", "limiter", "budget", "schedule", "session")]
    for page in ("", *lists, *pages):
        text = admin_client.get(HOME + page).text
        assert EVIL not in text, page
        assert "&lt;script&gt;alert(1)" in text, page
    text = admin_client.get(f"{HOME}job/{job.pk}/change/").text
    assert EVIL not in text
    assert text.count("&lt;script&gt;alert") >= 15
