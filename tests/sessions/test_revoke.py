from __future__ import annotations

import threading

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.models.signals import post_delete
from django.test import Client as Browser
from django.test import RequestFactory
from model_bakery import baker

from pgonly_django.models import Session
from pgonly_django.models.session import hash_key
from pgonly_django.sessions import SessionStore, prune_expired, revoke_all, revoke_other_sessions
from pgonly_django.sessions.statements import Client, Expiry, touch
from pgonly_django.worker.maintenance import Maintenance
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db


def session_of(user) -> SessionStore:
    session = SessionStore()
    session["_auth_user_id"] = str(user.pk)
    session.save()
    return session


def expired(count: int) -> None:
    for number in range(count):
        baker.make(Session, key_hash=hash_key(f"old-{number}").hex(), expires_at="2020-01-01T00:00Z", data={})


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
    session, counts = session_of(ada), []

    def revoke() -> None:
        counts.append(revoke_all(ada))
        connections.close_all()

    with transaction.atomic():
        session.cycle_key()
        other = threading.Thread(target=revoke)
        other.start()
        wait_for(waiting_for_us)
    other.join(timeout=10)
    assert counts == [1]
    assert not Session.objects.exists()


def waiting_for_us() -> int:
    """How many wait for the transaction of this very connection."""
    with connection.cursor() as cursor:
        cursor.execute(WAITING)
        return cursor.fetchone()[0]


WAITING = """
SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))
"""


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


# With these off the planner has nothing left but to start the subquery anew for every row.
UNUSABLE = ("hashjoin", "mergejoin", "hashagg", "material", "sort")


@pytest.mark.parametrize("off", [(), UNUSABLE], ids=["planned", "nested"])
def test_pruning_deletes_a_bounded_batch_of_the_expired(off):
    live = session_of(baker.make(get_user_model()))
    expired(5)
    with connection.cursor() as cursor:
        for means in off:
            cursor.execute(f"SET LOCAL enable_{means} = off")
    assert [prune_expired("default", 3) for _ in range(3)] == [3, 2, 0]
    assert SessionStore().exists(live.session_key)


def test_a_session_that_expired_a_moment_ago_is_pruned_too():
    session = session_of(baker.make(get_user_model()))
    session.set_expiry(-1)
    session.save()
    assert prune_expired("default") == 1


def test_clearsessions_prunes_in_batches():
    expired(5)
    call_command("clearsessions")
    assert Session.objects.count() == 0


def test_clearsessions_is_there_without_djangos_sessions_app(settings):
    from django.core.management import get_commands, load_command_class

    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django.contrib.sessions"]
    get_commands.cache_clear()
    assert get_commands()["clearsessions"] == "pgonly_django"
    load_command_class("pgonly_django", "clearsessions")
    expired(1)
    call_command("clearsessions")
    get_commands.cache_clear()
    assert Session.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_two_pruners_never_wait_for_each_other():
    expired(4)
    pruned = []

    def prune_rest() -> None:
        pruned.append(prune_expired("default", 10))
        connections.close_all()

    with transaction.atomic():
        assert prune_expired("default", 2) == 2
        other = threading.Thread(target=prune_rest)
        other.start()
        other.join(timeout=10)
        assert pruned == [2]
    assert Session.objects.count() == 0


def test_pruning_walks_the_index_of_hours():
    from pgonly_django.sessions.prune import PRUNE

    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {PRUNE}", {"grace": 0.0, "limit": 10})
        assert "pgonly_session_expires" in "\n".join(row[0] for row in cursor.fetchall())


def test_the_sessions_of_a_user_come_from_their_index():
    ada = baker.make(get_user_model())
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    assert "pgonly_session_user" in Session.objects.for_user(ada).explain()


def test_a_merge_and_a_touch_are_hot_updates():
    session = session_of(baker.make(get_user_model()))
    before = hot_updates()
    session["a"] = 1
    session.save()
    assert touch(session.session_key, Expiry(1_209_600, True, None), Client("203.0.113.7", "Browser"))
    assert hot_updates() - before == 2


def hot_updates() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_get_xact_tuples_hot_updated('pgonly_session'::regclass)")
        return cursor.fetchone()[0]


@pytest.fixture
def visit(transactional_db):
    """A table of the project's with a foreign key to the sessions, checked at the commit as Django's are."""
    execute(
        "CREATE TABLE visit (session_id bytea CONSTRAINT visit_of_session REFERENCES pgonly_session"
        " DEFERRABLE INITIALLY DEFERRED)"
    )
    yield lambda session: execute("INSERT INTO visit VALUES (%s)", bytes.fromhex(session.key_hash))
    execute("DROP TABLE visit")


def execute(sql, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


@pytest.mark.django_db(transaction=True)
def test_a_session_that_a_row_of_the_projects_refers_to_keeps_no_other_from_going(visit, caplog):
    expired(9)
    referenced = Session.objects.for_key("old-4").get()
    visit(referenced)
    assert prune_expired("default") == 9
    kept = Session.objects.get()
    assert kept.key_hash == referenced.key_hash
    assert (kept.data, list(Session.objects.active())) == (None, [])  # it was over and stays over
    assert f'{kept.key_hash}: update or delete on table "pgonly_session" violates' in caplog.text
    assert prune_expired("default") == 0


@pytest.mark.django_db(transaction=True)
def test_the_worker_prunes_the_sessions_that_can_go(visit):
    expired(3)
    visit(Session.objects.for_key("old-0").get())
    Maintenance("default").run_once()
    assert Session.objects.count() == 1
