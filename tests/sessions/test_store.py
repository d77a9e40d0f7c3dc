"""A session from its first save to its end: its key, its user, and what was ended stays ended."""

from __future__ import annotations

import pytest
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted

from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore
from tests.sessions.rows import again, stored

pytestmark = pytest.mark.django_db


def test_a_change_inside_a_nested_value_is_found_at_save():
    session = again(stored(cart={"items": [1]}))
    session["cart"]["items"].append(2)
    session.modified = True
    session.save()
    assert again(session)["cart"] == {"items": [1, 2]}


def test_an_emptied_session_is_still_a_session():
    session = again(stored(a=1))
    del session["a"]
    session.save()
    assert Session.objects.for_key(session.session_key).get().data == {}
    assert session.exists(session.session_key)


def test_a_deleted_session_is_not_resurrected_by_a_slow_request():
    slow = again(stored(a=1))
    slow["b"] = 2
    again(slow).delete()
    with pytest.raises(UpdateError):
        slow.save()
    assert not Session.objects.exists()


def test_a_logged_in_session_that_was_ended_does_not_come_back_under_a_new_key():
    slow = again(stored(_auth_user_id="7"))
    assert slow["_auth_user_id"] == "7"
    again(slow).delete()
    with pytest.raises(SessionInterrupted):
        slow.cycle_key()
    assert not Session.objects.exists()


def test_a_visitor_whose_session_was_ended_can_still_log_in():
    slow = again(stored(cart=[1]))
    assert slow["cart"] == [1]
    again(slow).delete()
    slow.cycle_key()
    slow.save()
    assert again(slow)["cart"] == [1]


def test_a_key_that_a_visitor_brings_along_is_never_used():
    session = SessionStore("chosenbytheattacker")
    session["a"] = 1
    session.save()
    assert session.session_key != "chosenbytheattacker"
    assert not SessionStore().exists("chosenbytheattacker")


def test_cycling_the_key_moves_the_row():
    session = again(stored(a=1))
    before = session.session_key
    session.cycle_key()
    session["b"] = 2
    session.save()
    assert not session.exists(before)
    assert dict(again(session).items()) == {"a": 1, "b": 2}
    assert Session.objects.count() == 1


def test_the_user_id_follows_login_and_logout():
    session = again(stored(a=1))
    session["_auth_user_id"] = "7"
    session.save()
    assert Session.objects.get().user_id == "7"
    del session["_auth_user_id"]
    session.save()
    assert Session.objects.get().user_id is None


async def _set_and_read() -> dict:
    session = SessionStore()
    await session.aset("a", 1)
    await session.acycle_key()
    await session.asave()
    loaded = SessionStore(session.session_key)
    await loaded.aset("b", 2)
    await loaded.asave()
    return dict(await SessionStore(session.session_key).aitems())


def test_the_async_methods_do_the_same():
    from asgiref.sync import async_to_sync

    assert async_to_sync(_set_and_read)() == {"a": 1, "b": 2}
