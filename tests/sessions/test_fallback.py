"""The switch without downtime: a session that only the old engine knows is moved over."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from model_bakery import baker

from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore, prune_expired, revoke_all

pytestmark = pytest.mark.django_db

ENGINES = [f"django.contrib.sessions.backends.{name}" for name in ("db", "cached_db", "cache")]


@pytest.fixture(params=ENGINES)
def engine(request, settings):
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.PGONLY = {"SESSION_FALLBACK_ENGINE": request.param}
    yield import_module(request.param)
    from django.core.cache import cache

    cache.clear()


def old_session(engine, **values) -> str:
    session = engine.SessionStore()
    session.update(values)
    session.save()
    return session.session_key


def test_a_session_of_the_old_engine_is_moved_under_its_cookie(engine):
    key = old_session(engine, cart=[1], _auth_user_id="7")
    assert dict(SessionStore(key).items()) == {"cart": [1], "_auth_user_id": "7"}
    assert Session.objects.get().user_id == "7"


def test_a_browser_that_logged_in_before_the_switch_is_still_logged_in(engine, settings):
    settings.SESSION_ENGINE = engine.__name__
    browser = Client()
    browser.force_login(baker.make(get_user_model(), username="ada"))
    settings.SESSION_ENGINE = "pgonly_django.sessions"
    assert browser.get("/whoami/").content == b"ada"
    settings.PGONLY = {}
    assert browser.get("/whoami/").content == b"ada"


def test_the_old_code_goes_on_serving_a_moved_session(engine):
    key = old_session(engine, cart=[1])
    assert SessionStore(key)["cart"] == [1]
    assert engine.SessionStore(key)["cart"] == [1]


def test_what_changed_here_is_not_undone_by_the_old_engine(engine):
    key = old_session(engine, cart=[1])
    session = SessionStore(key)
    session["cart"] = [2]
    session.save()
    assert SessionStore(key)["cart"] == [2]


def test_a_logout_here_ends_the_session_there_too(engine):
    key = old_session(engine, cart=[1])
    SessionStore(key).flush()
    assert not engine.SessionStore().exists(key)
    assert "cart" not in SessionStore(key)


def test_a_revoked_session_does_not_come_back_from_the_old_engine(engine):
    ada = baker.make(get_user_model())
    key = old_session(engine, _auth_user_id=str(ada.pk))
    assert SessionStore(key)["_auth_user_id"]
    assert revoke_all(ada) == 1
    assert "_auth_user_id" not in SessionStore(key)
    assert not SessionStore().exists(key)


def test_a_session_does_not_come_back_under_the_key_it_had_before_a_login(engine):
    key = old_session(engine, cart=[1])
    session = SessionStore(key)
    session.cycle_key()
    session.save()
    assert "cart" not in SessionStore(key)
    assert SessionStore(session.session_key)["cart"] == [1]


def test_a_session_that_expired_here_does_not_come_back_after_pruning(engine):
    key = old_session(engine, cart=[1])
    session = SessionStore(key)
    session.set_expiry(-1)
    session.save()
    prune_expired("default")
    assert "cart" not in SessionStore(key)


def test_a_key_that_nobody_knows_makes_no_row(engine):
    assert dict(SessionStore("x" * 32).items()) == {}
    assert not Session.objects.exists()


def test_the_row_keeps_the_old_rows_expiry(settings):
    from datetime import timedelta

    from django.contrib.sessions.models import Session as OldRow
    from django.utils import timezone

    settings.PGONLY = {"SESSION_FALLBACK_ENGINE": ENGINES[0]}
    key = old_session(import_module(ENGINES[0]), cart=[1])
    OldRow.objects.update(expire_date=timezone.now() + timedelta(hours=1))
    assert SessionStore(key)["cart"] == [1]
    assert Session.objects.get().expires_at < timezone.now() + timedelta(hours=1, minutes=1)
