"""Whatever an expiry is set to, every page and the next request still work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.utils.timezone import now

from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore, revoke_all
from tests.sessions.rows import switch_from

pytestmark = pytest.mark.django_db

LONGEST = 36_500 * 86_400
EAST, WEST = timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))


def shown(value) -> str:
    return repr(value)[:30]


NEVER_OVER = [
    10**12, 10**400, 1e308, float("inf"), timedelta.max, datetime.max.replace(tzinfo=WEST), datetime.max,
    datetime.max.replace(tzinfo=EAST).isoformat(),
]  # fmt: skip
LONG_OVER = [
    -(10**12), float("-inf"), timedelta.min, datetime.min.replace(tzinfo=EAST), datetime.min, -1, -0.5,
]  # fmt: skip


def age_of(value) -> float:
    session = SessionStore()
    session.set_expiry(value)
    return session.get_expiry_age()


@pytest.mark.parametrize("value", NEVER_OVER, ids=shown)
def test_an_expiry_in_the_far_future_counts_as_a_hundred_years(value):
    assert LONGEST - 60 < age_of(value) <= LONGEST


@pytest.mark.parametrize("value", LONG_OVER, ids=repr)
def test_an_expiry_in_the_past_is_over_at_once(value):
    assert -LONGEST - 1 <= age_of(value) < 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (300, 300),
        (1.5, 1.5),
        (True, 1),
        (timedelta(seconds=300), 299),
        (0, 1209600),
        (False, 1209600),
        (None, 1209600),
    ],
)
def test_every_other_expiry_means_what_django_documents(value, expected):
    assert age_of(value) == expected


@pytest.mark.parametrize("value", [float("nan"), "soon", "", "\x00"], ids=repr)
def test_a_value_that_is_no_expiry_is_refused_at_once(value):
    with pytest.raises(ValueError, match="takes seconds, a datetime, a timedelta or None, got"):
        age_of(value)


@pytest.mark.parametrize("value", [[], {}, Decimal(5), b"5", object], ids=repr)
def test_a_type_that_is_no_expiry_is_refused_at_once(value):
    with pytest.raises(TypeError, match="takes seconds, a datetime, a timedelta or None, got"):
        age_of(value)


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("moment", [datetime(2999, 1, 1), datetime(2999, 1, 1, tzinfo=UTC)])
def test_a_moment_is_understood_with_and_without_a_time_zone(settings, use_tz, moment):
    settings.USE_TZ = use_tz
    session = SessionStore()
    session.set_expiry(moment)
    settings.USE_TZ = not use_tz  # a session outlives a change of settings
    assert session.get_expiry_age() == LONGEST
    assert session.get_expiry_date() == moment


def test_the_async_methods_read_the_same():
    async def read(value):
        session = SessionStore()
        await session.aset_expiry(value)
        return await session.aget_expiry_age(), await session.aget_expiry_date()

    age, date = async_to_sync(read)(10**12)
    assert age == LONGEST
    assert date - now() == pytest.approx(timedelta(seconds=LONGEST), abs=timedelta(minutes=1))


# What other code, an older version or another engine may have left in the row.
UNREADABLE = ["soon", [1], {"a": 1}, float("nan"), "2026-13-45"]


@pytest.mark.parametrize(
    ("store", "values"),
    [
        (SessionStore.set_expiry, NEVER_OVER[:6]),
        (
            lambda session, value: session.update({"_session_expiry": value}),
            [*UNREADABLE, 10**12, -(10**12), float("inf"), "9999-12-31T23:59:59-12:00"],
        ),
    ],
    ids=["as long as can be", "odd"],
)
def test_whatever_its_expiry_is_a_session_serves_requests(client, settings, store, values):
    settings.MIDDLEWARE = ["pgonly_django.middleware.SessionMiddleware", *settings.MIDDLEWARE[1:]]
    settings.SESSION_SAVE_EVERY_REQUEST = True
    user = get_user_model().objects.create_user("ada")
    for value in values:
        client.force_login(user)
        session = SessionStore(client.cookies["sessionid"].value)
        store(session, value)
        session.save()
        Session.objects.update(expires_at=now() + timedelta(hours=1), last_seen_at=now() - timedelta(hours=1))
        assert client.get("/set/a/").status_code == 200, value
        assert client.get("/whoami/").status_code == 200, value


def test_an_expiry_comes_along_from_the_previous_engine(settings):
    old = switch_from(settings, "cache").SessionStore()
    old["a"] = 1
    old.set_expiry(3600)
    old.save()
    session = SessionStore(old.session_key)
    assert (session["a"], session.get_expiry_age()) == (1, 3600)
    assert Session.objects.get().expires_at < now() + timedelta(seconds=3601)


@pytest.mark.parametrize("value", UNREADABLE, ids=repr)
def test_a_session_with_an_odd_expiry_is_moved_from_the_previous_engine(settings, value):
    old = switch_from(settings, "cache").SessionStore()
    old["a"] = 1
    old.save()
    old._cache.set(old.cache_key, {"a": 1, "_session_expiry": value})
    assert SessionStore(old.session_key)["a"] == 1


def test_an_endless_cookie_age_breaks_neither_a_save_nor_a_revocation(settings, client):
    settings.SESSION_COOKIE_AGE = 10**13
    engine = switch_from(settings, "db")
    user = get_user_model().objects.create_user("ada")
    client.force_login(user)
    assert client.get("/whoami/").content == b"ada"
    assert revoke_all(user) == 1
    SessionStore.clear_expired()
    assert SessionStore(engine.SessionStore().session_key).get("a") is None
