"""Parallel requests of one session keep what the others set."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore
from tests.sessions.rows import PICKLE, again, column, encrypt, seen_seconds_ago, stored

pytestmark = pytest.mark.django_db


@pytest.fixture(params=["as JSON", "pickled", "encrypted"])
def _stored_form(request, settings):
    if request.param == "pickled":
        settings.SESSION_SERIALIZER = PICKLE
    encrypt(settings, request.param == "encrypted")


@pytest.mark.usefixtures("_stored_form")
def test_two_requests_that_set_different_keys_both_keep_theirs():
    first = stored(kept=0)
    one, two = again(first), again(first)
    one["one"], two["two"] = [1], [2]
    one.save()
    before = json.loads(column())
    two.save()
    after = json.loads(column())
    assert {name: after[name] for name in before} == before
    assert dict(again(first).items()) == {"kept": 0, "one": [1], "two": [2]}


def test_of_two_requests_that_set_the_same_key_the_last_writer_wins():
    key = stored(color="red").session_key
    one, two = SessionStore(key), SessionStore(key)
    one["color"], two["color"] = "blue", "green"
    one.save()
    two.save()
    assert SessionStore(key)["color"] == "green"


def test_a_removed_key_does_not_come_back_with_another_requests_save():
    key = stored(gone=1, kept=1).session_key
    one, two = SessionStore(key), SessionStore(key)
    del one["gone"]
    two["kept"] = 2
    assert two["gone"] == 1
    one.save()
    two.save()
    assert dict(SessionStore(key).items()) == {"kept": 2}


def test_clearing_drops_what_a_parallel_request_has_set():
    key = stored(old=1).session_key
    one, two = SessionStore(key), SessionStore(key)
    two["late"] = 1
    two.save()
    one.clear()
    one["new"] = 1
    one.save()
    assert dict(SessionStore(key).items()) == {"new": 1}


def test_another_requests_save_leaves_the_user_id_alone():
    visitor = again(stored(a=1))
    login = again(visitor)
    visitor["a"] = 2
    login["_auth_user_id"] = "7"
    login.save()
    visitor.save()
    assert Session.objects.get().user_id == "7"


def seconds_left(session: SessionStore) -> float:
    return (Session.objects.for_key(session.session_key).get().expires_at - timezone.now()).total_seconds()


@pytest.mark.usefixtures("_stored_form")
def test_an_expiry_that_a_parallel_request_has_set_stays():
    one = again(stored(a=1))
    two = again(one)
    one["one"], two["two"] = 1, 2
    one.set_expiry(300)
    one.save()
    two.save()
    assert dict(again(one).items()) == {"a": 1, "one": 1, "two": 2, "_session_expiry": 300}
    assert seconds_left(one) <= 300


@pytest.mark.usefixtures("_stored_form")
def test_a_touch_leaves_an_expiry_that_a_parallel_request_has_set():
    session = again(stored(a=1))
    seen_seconds_ago(3600)
    assert session["a"] == 1
    parallel = again(session)
    parallel.set_expiry(300)
    parallel.save()
    session.save()
    assert seconds_left(session) <= 300


@pytest.mark.usefixtures("_stored_form")
def test_an_expiry_of_the_sessions_own_slides_with_every_change():
    first = stored(a=1)
    first.set_expiry(300)
    first.save()
    for change in ({"b": 1}, {}):
        Session.objects.update(expires_at=timezone.now() + timedelta(seconds=10))
        seen_seconds_ago(3600)
        session = again(first)
        session.update(change)
        session.save()
        assert 290 < seconds_left(session) <= 300


@pytest.mark.usefixtures("_stored_form")
def test_a_request_that_has_set_the_expiry_goes_on_setting_it():
    session = again(stored(a=1))
    session.set_expiry(300)
    session.save()
    again(session).save()
    session["b"] = 1
    Session.objects.update(expires_at=timezone.now() + timedelta(seconds=10))
    session.save()
    assert seconds_left(session) > 290
