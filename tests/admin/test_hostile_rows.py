"""Rows that no code of ours writes: every page of the admin opens all the same."""

from __future__ import annotations

import json
from urllib.parse import quote
from uuid import uuid4

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.utils import timezone, translation
from model_bakery import baker

from pgonly_django.models import (
    Budget,
    CacheEntry,
    Checkpoint,
    CostEntry,
    DurableCacheEntry,
    Limiter,
    LimiterSlot,
    LimiterWaiter,
    Session,
    State,
    Step,
    Worker,
)
from pgonly_django.sessions import SessionStore
from pgonly_django.tables import name_of
from tests.admin.conftest import make_job
from tests.admin.test_workers import make_worker

pytestmark = pytest.mark.django_db

AT_THE_END_OF_TIME = "294276-12-31 23:59:59.999999+00"
TIMES = [
    "infinity", "-infinity", AT_THE_END_OF_TIME, "4714-11-24 00:00:00+00 BC", "0001-01-01 00:00:00+00",
    "10000-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00",
]  # fmt: skip
# pgonly_session.expires_hour is computed of it and refuses what has no hour that fits.
NO_EXPIRY = {"infinity", "-infinity", AT_THE_END_OF_TIME}


@pytest.fixture(
    params=[("Pacific/Kiritimati", True, "en"), ("Pacific/Pago_Pago", False, "en"), ("UTC", True, "ar")]
)
def _site(request, settings):
    """14 hours before UTC, 11 hours behind it, and another language on a site under development."""
    settings.TIME_ZONE, settings.USE_TZ, language = request.param
    settings.DEBUG = language != "en"
    with translation.override(language):
        yield


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


def times_of(row) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_name = %s AND data_type = 'timestamp with time zone'",
            [name_of(row._meta.db_table)],
        )
        return [name for (name,) in cursor.fetchall()]


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


@pytest.mark.sample(2)
@pytest.mark.usefixtures("_site")
@pytest.mark.parametrize("state", [State.RUNNING, State.SCHEDULED, State.FAILED])
def test_jobs_with_impossible_times(admin_client, state):
    jobs = [make_job(state, worker_id=uuid4()) for _ in TIMES]
    for job, value in zip(jobs, TIMES, strict=True):
        Checkpoint.objects.create(job=job, value=1)
        Step.objects.create(job=job, name="a")
        for row in (job, job.checkpoint, job.steps.get()):
            overwrite(row, **dict.fromkeys(times_of(row), value))
    assert_pages_open(admin_client, *jobs)


@pytest.mark.sample(2)
@pytest.mark.usefixtures("_site")
@pytest.mark.parametrize(
    "make", [make_worker, make_session, make_entry, lambda: make_entry(DurableCacheEntry)]
)
def test_workers_sessions_and_cache_entries_with_impossible_times(admin_client, make):
    columns = times_of(make())
    rows = []
    for turn in range(len(TIMES)):  # each column has each of the times once
        values = dict(zip(columns, TIMES[turn:] + TIMES[:turn], strict=False))
        if make is make_session and values["expires_at"] in NO_EXPIRY:
            del values["expires_at"]
        rows.append(overwrite(make(), **values))
    assert_pages_open(admin_client, *rows)


@pytest.mark.slow
@pytest.mark.usefixtures("_site")
def test_limiters_with_impossible_times_and_numbers(admin_client):
    for number, value in enumerate(TIMES):
        row = Limiter.objects.create(name=f"l{number} <b>/?", concurrent=2, declared={"concurrent": 2})
        overwrite(row, edited_at=value, blocked_until=value, refilled_at=value)
        slot = LimiterSlot.objects.create(limiter=row.name, number=1, holder=uuid4(), who="job not-one (x)")
        overwrite(slot, taken_at=value, expires_at="infinity")
        waiter = LimiterWaiter.objects.create(
            id=uuid4(), limiter=row.name, who="<i>", tokens=-1, expires_at=timezone.now()
        )
        overwrite(waiter, since=value, expires_at="infinity")
    for number, value in enumerate(("NaN", "Infinity", "-Infinity")):
        row = Limiter.objects.create(name=f"n{number}", tokens_per_minute=1, requests_per_minute=1e-9)
        overwrite(row, requests=value, tokens=value, refilled_at="2020-01-01")
    home = "/admin/pgonly_django/"
    pages = [f"limiter/{quote(name)}/change/" for name in Limiter.objects.values_list("name", flat=True)]
    for page in ("limiter/", "limiter/?q=l", *pages):
        assert admin_client.get(home + page).status_code == 200, page
    assert_overview_opens(admin_client)


@pytest.mark.slow
@pytest.mark.usefixtures("_site")
def test_budgets_and_costs_with_impossible_times_and_amounts(admin_client):
    for number, value in enumerate(TIMES):
        row = Budget.objects.create(name=f"p{number}", usd=1)
        overwrite(row, edited_at=value)
        overwrite(CostEntry.objects.create(usd=1, budget=row.name), at=value)
    for column in ("usd", "spent", "reserved"):
        overwrite(Budget.objects.create(name=column, usd=1), **{column: "NaN"})
    overwrite(CostEntry.objects.create(usd=1, budget="usd"), usd="NaN")
    assert_overview_opens(admin_client)
    home = "/admin/pgonly_django/"
    pages = [f"budget/{quote(name)}/change/" for name in Budget.objects.values_list("name", flat=True)]
    for page in (
        "budget/",
        "budget/?q=p",
        "costentry/",
        "costentry/?q=usd",
        "costentry/sums/?days=90",
        *pages,
    ):
        assert admin_client.get(home + page).status_code == 200, page


def test_jobs_with_impossible_durations(admin_client):
    durations = ["178000000 years", "-178000000 years", "infinity", "-infinity"]
    if connection.pg_version < 170000:
        durations = durations[:2]
    jobs = [overwrite(make_job(), max_runtime=value, retention=value) for value in durations]
    assert_pages_open(admin_client, *jobs)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


MEMBERS = ("text", "outcome", "attempt", "worker", "exception", "message", "traceback", "reason")
MOMENTS = (
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-12:00",
    "9999-12-31T23:59:59",
    "24:00",
    5,
    None,
    [1],
)
SHAPES = [
    "null", '"text"', "1e300", "1" * 5000, '{"a": {"at": 5}}', '[1, "a", null, [], {}]', json.dumps(["x" * 1_000_000]),
    json.dumps([{"at": "2026-01-01", "text": "x", "outcome": "y"}] * 5_000), nested(900), nested(2_000),
    json.dumps([dict.fromkeys(("at", "started_at", "finished_at"), when) for when in MOMENTS]),
    json.dumps([{"started_at": "2026-01-01T00:00:00", "finished_at": "2026-01-01T00:00:00+00:00"}]),
    json.dumps([dict.fromkeys(MEMBERS, value) for value in ({"a": 1}, [1], None, 5, True, "x" * 200_000)]),
    f'{{"message": {nested(900)}}}',
    '{"done": 1e308, "total": 1e-308, "message": [1]}', '{"done": true, "total": true, "message": {"a": 1}}',
    f'{{"done": {"9" * 400}, "total": 0.5}}', f'{{"done": 0.5, "total": {"9" * 400}}}',
]  # fmt: skip
JSON_COLUMNS = ["args", "kwargs", "options", "progress", "result", "errors", "log"]
DEEP_ENTRIES = json.dumps([dict.fromkeys(MEMBERS, 7)]).replace("7", nested(900))


def write_every_shape(jobs):
    """One job of each shape, and a last one with entries whose every member is deep."""
    for job, shape in zip(jobs, SHAPES, strict=False):
        overwrite(job, **dict.fromkeys(JSON_COLUMNS, shape))
    overwrite(jobs[-1], errors=DEEP_ENTRIES, log=DEEP_ENTRIES)


@pytest.mark.slow
@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED, State.FAILED])
def test_jobs_whose_json_has_any_shape(admin_client, state):
    jobs = [make_job(state) for _ in range(len(SHAPES) + 1)]
    write_every_shape(jobs)
    for job, shape in zip(jobs, SHAPES, strict=False):
        overwrite(Checkpoint.objects.create(job=job), value=shape, positions=shape)
        overwrite(Step.objects.create(job=job, name="x" * 255), result=shape)
    assert_pages_open(admin_client, *jobs)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["edit", "again"])
def test_the_call_of_a_job_whose_json_has_any_shape_is_shown_and_sent_back(admin_client, page):
    jobs = [make_job(State.READY) for _ in SHAPES]
    for job, shape in zip(jobs, SHAPES, strict=True):
        overwrite(job, **dict.fromkeys(JSON_COLUMNS, shape))
        address = f"/admin/pgonly_django/job/{job.pk}/{page}/"
        answer = admin_client.get(address)
        assert answer.status_code == 200
        form = answer.context["form"]
        sent = {name: form[name].value() for name in form.fields if form[name].value() is not None}
        assert admin_client.post(address, sent).status_code in (200, 302), shape[:100]


def test_a_job_with_names_as_long_as_can_be_and_an_unknown_state(admin_client):
    job = overwrite(make_job(), queue="q" * 64, task="." * 255, state="\u202emystery", backend="")
    overwrite(job, attempt=-32768, max_attempts=32767, interruptions=-5, crashes=-1, worker_id=str(uuid4()))
    assert_pages_open(admin_client, job)


def test_workers_with_odd_columns(admin_client):
    odd = {"name": "n" * 128, "hostname": "h" * 255, "pid": -(2**31), "threads": -32768, "running": 2**31 - 1}
    assert_pages_open(admin_client, *(overwrite(make_worker(), queues=shape, **odd) for shape in SHAPES))


@pytest.mark.slow
def test_sessions_whose_data_has_any_shape(admin_client):
    sessions = [overwrite(make_session(), data=shape) for shape in SHAPES]
    values = [*SHAPES, '"\\ud800"', '{"\\u0000": NaN, "x": "\\ud800\\u0000"}', "-Infinity"]
    sessions += [
        overwrite(make_session(), data=json.dumps({"a": value, "b\ud83d\ude00": value})) for value in values
    ]
    assert_pages_open(admin_client, *sessions)


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
