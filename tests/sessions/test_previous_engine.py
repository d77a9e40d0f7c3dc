"""The switch without downtime: a session that only the old engine knows is moved over."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session as OldRow
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, connections, transaction
from django.test import Client, RequestFactory
from django.utils import timezone
from model_bakery import baker

from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore, prune_expired, revoke_all, revoke_other_sessions
from tests.sessions.rows import session_of, stored, switch_from, waiting_for_us
from tests.waiting import beside, wait_for

pytestmark = pytest.mark.django_db


@pytest.fixture(params=["db", "cached_db", "cache"])
def engine(request, settings):
    yield switch_from(settings, request.param)
    cache.clear()


def old_session(engine, **values) -> str:
    session = engine.SessionStore()
    session.update(values)
    session.save()
    return session.session_key


def test_a_session_of_the_old_engine_is_moved_under_its_cookie_and_stays_there_for_the_old_code(engine):
    key = old_session(engine, cart=[1], _auth_user_id="7")
    assert dict(SessionStore(key).items()) == {"cart": [1], "_auth_user_id": "7"}
    assert Session.objects.get().user_id == "7"
    assert engine.SessionStore(key)["cart"] == [1]


def test_a_browser_that_logged_in_before_the_switch_is_still_logged_in(engine, settings):
    settings.SESSION_ENGINE = engine.__name__
    browser = Client()
    browser.force_login(baker.make(get_user_model(), username="ada"))
    settings.SESSION_ENGINE = "pgonly_django.sessions"
    assert browser.get("/whoami/").content == b"ada"
    settings.PGONLY = {}
    assert browser.get("/whoami/").content == b"ada"


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


@pytest.mark.parametrize(
    ("expires", "at_most"),
    [
        (timezone.now() + timedelta(hours=1), timedelta(hours=1)),
        ("9999-12-31T23:59Z", timedelta(days=36_500)),
    ],
    ids=["in an hour", "never"],
)
def test_the_row_keeps_the_old_rows_expiry_and_lives_a_hundred_years_at_most(settings, expires, at_most):
    key = old_session(switch_from(settings, "db"), cart=[1])
    OldRow.objects.update(expire_date=expires)
    assert SessionStore(key)["cart"] == [1]
    assert Session.objects.get().expires_at < timezone.now() + at_most + timedelta(minutes=1)


class UnreachableCache(LocMemCache):
    def get(self, *args, **kwargs):
        raise ConnectionError

    delete = get


def test_an_unreachable_cache_logs_nobody_out(settings):
    settings.SESSION_ENGINE = switch_from(settings, "cache").__name__
    browser = Client(raise_request_exception=False)
    browser.force_login(baker.make(get_user_model(), username="ada"))
    settings.SESSION_ENGINE = "pgonly_django.sessions"
    switch_from(settings, "cache", f"{__name__}.UnreachableCache")
    answer = browser.get("/whoami/")
    assert (answer.status_code, dict(answer.cookies)) == (500, {})
    switch_from(settings, "cache")
    assert browser.get("/whoami/").content == b"ada"


def test_a_cookie_that_no_engine_made_is_a_session_that_nobody_knows(engine):
    assert dict(SessionStore("a\x00chosen cookie").items()) == {}


def test_an_unreachable_cache_does_not_hinder_a_logout(settings, caplog):
    session = stored(cart=[1])
    switch_from(settings, "cache", f"{__name__}.UnreachableCache")
    key = session.session_key
    session.flush()
    assert "may still live in the previous engine" in caplog.text
    assert Session.objects.for_key(key).get().data is None


@pytest.mark.django_db(transaction=True)
def test_a_login_that_is_rolled_back_leaves_the_old_session_as_it_was(engine):
    key = old_session(engine, cart=[1])
    with transaction.atomic():
        SessionStore(key).cycle_key()
        transaction.set_rollback(True)
    assert SessionStore(key)["cart"] == [1]


@pytest.mark.django_db(transaction=True)
def test_a_logout_in_a_transaction_ends_the_session_there_too(engine):
    key = old_session(engine, cart=[1])
    with transaction.atomic():
        SessionStore(key).flush()
    assert not engine.SessionStore().exists(key)


@pytest.mark.django_db(transaction=True)
def test_a_session_whose_move_was_rolled_back_with_the_view_is_moved_again(engine):
    key = old_session(engine)
    changed = engine.SessionStore(key)
    changed["cart"] = [1]
    changed.save()
    session = SessionStore(key)
    with transaction.atomic():
        session["tried"] = 1
        transaction.set_rollback(True)
    session.save()
    assert dict(SessionStore(key).items()) == {"cart": [1], "tried": 1}


def test_a_session_that_was_ended_meanwhile_is_not_moved_again(engine):
    key = old_session(engine, cart=[1])
    slow = SessionStore(key)
    slow["tried"] = 1
    SessionStore(key).flush()
    with pytest.raises(UpdateError):
        slow.save()
    assert "cart" not in SessionStore(key)


def test_what_cannot_be_encoded_here_is_left_out_and_logged_by_its_key(settings, caplog):
    key = old_session(switch_from(settings, "cache"), cart=[1], seen=datetime(2026, 1, 1, tzinfo=UTC))
    assert dict(SessionStore(key).items()) == {"cart": [1]}
    assert "'seen'" in caplog.text
    assert "2026" not in caplog.messages[0]


def test_revoking_all_ends_the_sessions_that_only_the_old_engine_knows(engine):
    ada, grace = baker.make(get_user_model(), _quantity=2)
    key, other = (old_session(engine, _auth_user_id=str(user.pk)) for user in (ada, grace))
    assert revoke_all(ada) == 0
    assert dict(SessionStore(key).items()) == {}
    assert not engine.SessionStore().exists(key)
    assert SessionStore(other)["_auth_user_id"] == str(grace.pk)


def test_revoking_all_others_keeps_this_one_and_what_logs_in_later(engine):
    ada = baker.make(get_user_model())
    here, there = (old_session(engine, _auth_user_id=str(ada.pk)) for _ in range(2))
    request = RequestFactory().get("/")
    request.user, request.session = ada, SessionStore(here)
    assert request.session["_auth_user_id"]
    assert revoke_other_sessions(request) == 0
    later = session_of(ada)
    alive = [key for key in (here, there, later.session_key) if "_auth_user_id" in SessionStore(key)]
    assert alive == [here, later.session_key]


def test_revoking_all_once_more_keeps_them_out_for_the_whole_age_again(settings):
    switch_from(settings, "db")
    ada = baker.make(get_user_model())
    revoke_all(ada)
    Session.objects.update(expires_at=timezone.now() + timedelta(hours=1))
    revoke_all(ada)
    assert Session.objects.get().expires_at > timezone.now() + timedelta(days=13)


@pytest.mark.django_db(transaction=True)
def test_a_parallel_first_request_waits_for_the_move_and_finds_it(engine):
    key = old_session(engine, cart=[1])
    with ExitStack() as thread, transaction.atomic():
        first = SessionStore(key)
        first["first"] = 1
        first.save()
        loaded = thread.enter_context(beside(lambda: dict(SessionStore(key).items())))
        wait_for(waiting_for_us)
    assert loaded == [{"cart": [1], "first": 1}]


def test_the_row_of_a_revoked_user_is_no_session_and_is_pruned(settings, admin_client):
    switch_from(settings, "db")
    ada = baker.make(get_user_model())
    before = Session.objects.count()
    revoke_all(ada)
    revoke_all(ada)
    assert Session.objects.count() == before + 1
    row = Session.objects.get(data__isnull=True)
    assert row not in Session.objects.active()
    settings.ROOT_URLCONF = "tests.urls"
    assert row.pk not in admin_client.get("/admin/pgonly_django/session/").content.decode()
    Session.objects.filter(pk=row.pk).update(expires_at="2020-01-01T00:00Z")
    assert prune_expired("default") == 1


def test_without_a_previous_engine_revoking_all_leaves_no_row_behind():
    assert revoke_all(baker.make(get_user_model())) == 0
    assert not Session.objects.exists()


class Replica:
    def db_for_read(self, model, **hints):
        return "replica" if model is Session else None


@pytest.fixture
def lagging_replica(settings):
    """Another connection, which sees nothing of the test's transaction."""
    settings.DATABASE_ROUTERS = [f"{__name__}.Replica"]
    connections["replica"] = connection.copy("replica")
    yield
    connections["replica"].close()
    del connections["replica"]


def test_a_replica_that_lags_logs_nobody_out_whose_session_is_moved(engine, lagging_replica):
    key = old_session(engine, cart=[1])
    for _ in range(2):
        assert SessionStore(key)["cart"] == [1]
