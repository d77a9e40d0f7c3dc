"""Sessions are ended before they expire."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models.signals import post_delete
from django.test import Client as Browser
from django.test import RequestFactory
from model_bakery import baker

from pgonly_django.models import Session
from pgonly_django.models.session import hash_key
from pgonly_django.sessions import SessionStore, revoke_all, revoke_other_sessions
from tests.sessions.rows import expired, session_of, waiting_for_us
from tests.sql import sql
from tests.waiting import beside, wait_for

pytestmark = pytest.mark.django_db


def test_all_sessions_of_a_user_and_of_nobody_else_end():
    ada, grace = baker.make(get_user_model(), _quantity=2)
    ours, others = [session_of(ada), session_of(ada)], session_of(grace)
    assert revoke_all(ada) == 2
    assert [SessionStore().exists(session.session_key) for session in ours] == [False, False]
    assert SessionStore().exists(others.session_key)


def test_all_but_the_requests_own_session_end():
    ada = baker.make(get_user_model())
    here, there = session_of(ada), session_of(ada)
    request = RequestFactory().get("/")
    request.user, request.session = ada, SessionStore(here.session_key)
    assert revoke_other_sessions(request) == 1
    assert SessionStore().exists(here.session_key)
    assert not SessionStore().exists(there.session_key)


@pytest.fixture
def _a_listener():
    """With one Django's delete() reads the keys first."""
    listener = lambda **_: None  # noqa: E731
    post_delete.connect(listener, sender=Session)
    yield
    post_delete.disconnect(listener, sender=Session)


@pytest.mark.usefixtures("_a_listener")
@pytest.mark.django_db(transaction=True)
def test_a_session_whose_key_changes_meanwhile_ends_all_the_same():
    ada = baker.make(get_user_model())
    session = session_of(ada)
    with ExitStack() as thread, transaction.atomic():
        session.cycle_key()
        counts = thread.enter_context(beside(revoke_all, ada))
        wait_for(waiting_for_us)
    assert counts == [1]
    assert not Session.objects.exists()


class Elsewhere:
    def db_for_write(self, model, **hints):
        return "elsewhere"


def test_the_database_that_was_asked_for_is_the_one(settings):
    session_of(baker.make(get_user_model()))
    settings.DATABASE_ROUTERS = [f"{__name__}.Elsewhere"]
    assert Session.objects.using("default").filter(pk="00" * 32).revoke() == 0
    assert Session.objects.using("default").none().revoke() == 0
    assert Session.objects.using("default").revoke() == 1
    assert not Session.objects.exists()


def test_the_first_few_of_a_list_are_refused_as_django_refuses_it():
    with pytest.raises(TypeError, match="slice"):
        Session.objects.all()[:1].revoke()


def test_a_visitor_has_no_other_sessions():
    from django.contrib.auth.models import AnonymousUser

    session_of(baker.make(get_user_model()))
    request = RequestFactory().get("/")
    request.user, request.session = AnonymousUser(), SessionStore()
    assert revoke_other_sessions(request) == 0
    assert Session.objects.count() == 1


def test_a_revoked_browser_is_logged_out_at_its_next_request():
    ada = baker.make(get_user_model(), username="ada")
    browser = Browser()
    browser.force_login(ada)
    assert browser.get("/whoami/").content == b"ada"
    revoke_all(ada)
    assert browser.get("/whoami/").content == b""


def test_active_leaves_out_what_is_expired_or_ended():
    live = session_of(baker.make(get_user_model()))
    expired(1)
    baker.make(Session, key_hash=hash_key("ended").hex(), expires_at="2100-01-01T00:00Z", data=None)
    assert list(Session.objects.active()) == [Session.objects.for_key(live.session_key).get()]


def test_a_revocation_is_told_to_listeners():
    from pgonly_django import events

    heard = []
    unsubscribe = events.subscribe(lambda name, facts: heard.append((name, facts)))
    ada = baker.make(get_user_model())
    session_of(ada)
    revoke_all(ada)
    unsubscribe()
    assert heard == [("sessions.revoked", {"count": 1})]


def test_the_sessions_of_a_user_come_from_their_index():
    ada = baker.make(get_user_model())
    sql("SET LOCAL enable_seqscan = off")
    assert "pgonly_session_user" in Session.objects.for_user(ada).explain()
