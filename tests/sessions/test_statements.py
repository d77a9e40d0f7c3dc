"""How many statements a request takes, when it touches the row, and which commits wait for the disk."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.base import UpdateError
from django.db import transaction
from model_bakery import baker

from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore
from pgonly_django.sessions.statements import Client, Expiry, touch
from tests.sessions.rows import again, seen_seconds_ago, session_of, stored
from tests.sql import setting, sql, value

pytestmark = pytest.mark.django_db


def change(session, **values):
    session.update(values)
    session.save()


@pytest.mark.parametrize(
    ("statements", "do"),
    [
        pytest.param(1, lambda session: session["a"], id="a load"),
        pytest.param(1, lambda session: change(session, a=1), id="saving what did not change"),
        pytest.param(2, lambda session: change(session, a=2), id="a change"),
        pytest.param(2, lambda session: (session["a"], session.flush()), id="a logout"),
        pytest.param(
            3, lambda session: (session.cycle_key(), change(session, _auth_user_id="7")), id="a login"
        ),
    ],
)
def test_how_many_statements_a_request_takes(django_assert_num_queries, statements, do):
    session = again(stored(a=1))
    with django_assert_num_queries(statements):
        do(session)


def test_a_new_session_is_one_statement(django_assert_num_queries):
    session = SessionStore()
    with django_assert_num_queries(1):
        change(session, a=1)


def test_a_touch_is_one_statement_a_minute(django_assert_num_queries):
    first = again(stored(a=1))
    seen_seconds_ago(61)
    Session.objects.update(expires_at="2100-01-01T00:00Z")
    with django_assert_num_queries(2):
        assert first["a"] == 1
        first.save()
        first.save()
    assert Session.objects.get().expires_at.year < 2100
    with django_assert_num_queries(1):
        again(first).save()


def test_a_short_lived_session_is_touched_before_it_can_expire():
    session = stored(a=1)
    session.set_expiry(20)
    session.save()
    seen_seconds_ago(3)
    before = Session.objects.get().last_seen_at
    again(session).save()
    assert Session.objects.get().last_seen_at > before


def test_touching_keeps_a_large_value_as_it_is():
    session = stored(large="x" * 500_000)
    seen_seconds_ago(61)
    again(session).save()
    assert again(session)["large"] == "x" * 500_000


def test_a_touch_notices_that_the_session_was_ended():
    session = again(stored(a=1))
    seen_seconds_ago(61)
    assert session["a"] == 1
    again(session).delete()
    with pytest.raises(UpdateError):
        session.save()


def test_a_merge_and_a_touch_are_hot_updates():
    session = session_of(baker.make(get_user_model()))
    before = hot_updates()
    session["a"] = 1
    session.save()
    assert touch(session.session_key, Expiry(1_209_600, True, None), Client("203.0.113.7", "Browser"))
    assert hot_updates() - before == 2


def hot_updates() -> int:
    return value("SELECT pg_stat_get_xact_tuples_hot_updated('pgonly_session'::regclass)")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("waits", "expected"), [(True, "on"), (False, "off")])
def test_whether_a_merge_waits_for_the_disk_is_a_setting(settings, waits, expected):
    settings.PGONLY = {"SESSION_WAIT_FOR_DISK": waits}
    assert commit_setting_of(lambda session: session.update({"b": 2})) == expected


@pytest.mark.django_db(transaction=True)
def test_a_login_always_waits_for_the_disk(settings):
    settings.PGONLY = {"SESSION_WAIT_FOR_DISK": False}
    assert commit_setting_of(lambda session: session.update({"_auth_user_id": "7"})) == "on"


@pytest.mark.django_db(transaction=True)
def test_a_touch_never_waits_for_the_disk():
    assert commit_setting_of(lambda session: seen_seconds_ago(61)) == "off"


@pytest.mark.django_db(transaction=True)
def test_the_callers_transaction_keeps_its_own_setting(settings):
    settings.PGONLY = {"SESSION_WAIT_FOR_DISK": False}
    session = again(stored(a=1))
    with transaction.atomic():
        session["a"] = 2
        session.save()
        assert setting("synchronous_commit") == "on"


def commit_setting_of(change) -> str:
    """The synchronous_commit under which the save after `change` commits, noted by a trigger."""
    session = again(stored(a=1))
    sql(NOTE_COMMIT_SETTING)
    change(session)
    session.save()
    noted = value("SELECT setting FROM noted_commit ORDER BY at DESC LIMIT 1")
    sql("DROP TABLE noted_commit; DROP FUNCTION note_commit CASCADE")
    return noted


NOTE_COMMIT_SETTING = """
CREATE TABLE noted_commit (setting text, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO noted_commit (setting) VALUES (current_setting('synchronous_commit'));
    RETURN NULL;
END $$;
CREATE TRIGGER note_commit AFTER UPDATE ON pgonly_session FOR EACH ROW EXECUTE FUNCTION note_commit();
"""
