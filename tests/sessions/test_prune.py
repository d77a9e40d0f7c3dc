"""Expired sessions are deleted in batches."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import transaction
from model_bakery import baker

from pgonly_django.database.on_django import all_rows
from pgonly_django.models import Session
from pgonly_django.sessions import SessionStore, prune_expired
from tests.sessions.rows import expired, session_of
from tests.sql import sql
from tests.waiting import beside
from tests.worker.rounds import a_round

pytestmark = pytest.mark.django_db


# With these off the planner can only start the subquery again for every row.
UNUSABLE = ("hashjoin", "mergejoin", "hashagg", "material", "sort")


@pytest.mark.parametrize("off", [(), UNUSABLE], ids=["planned", "nested"])
def test_pruning_deletes_a_bounded_batch_of_the_expired(off):
    live = session_of(baker.make(get_user_model()))
    expired(5)
    for means in off:
        sql(f"SET LOCAL enable_{means} = off")
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
    with transaction.atomic():
        assert prune_expired("default", 2) == 2
        with beside(prune_expired, "default", 10) as pruned:
            pass
        assert pruned == [2]
    assert Session.objects.count() == 0


def test_pruning_walks_the_index_of_hours():
    from pgonly_django.sessions.prune import PRUNE

    sql("SET LOCAL enable_seqscan = off")
    assert "pgonly_session_expires" in str(
        all_rows("default", f"EXPLAIN {PRUNE}", {"grace": 0.0, "limit": 10})
    )


@pytest.fixture
def visit(transactional_db):
    """A table of the project's with a foreign key to the sessions, checked at the commit as Django's are."""
    sql(
        "CREATE TABLE visit (session_id bytea CONSTRAINT visit_of_session REFERENCES pgonly_session"
        " DEFERRABLE INITIALLY DEFERRED)"
    )
    yield lambda session: sql("INSERT INTO visit VALUES (%s)", bytes.fromhex(session.key_hash))
    sql("DROP TABLE visit")


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
    a_round()
    assert Session.objects.count() == 1
