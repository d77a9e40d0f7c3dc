"""A session that is saved in a transaction of the caller's."""

from __future__ import annotations

import pytest
from django.db import transaction

from pgonly_django.sessions import SessionStore
from tests.sessions.rows import again, stored

pytestmark = pytest.mark.django_db(transaction=True)


def test_what_a_rollback_undid_is_sent_again_by_the_next_save():
    session = again(stored(a=1))
    with transaction.atomic():
        session["b"] = 2
        session.save()
        transaction.set_rollback(True)
    assert "b" not in again(session)
    session.save()
    assert again(session)["b"] == 2


def test_what_was_saved_in_a_transaction_is_merged_by_the_save_after_it():
    session = SessionStore()
    with transaction.atomic():
        session["a"] = 1
        session.save()
    parallel = again(session)
    parallel["b"] = 2
    parallel.save()
    session["c"] = 3
    session.save()
    assert dict(again(session).items()) == {"a": 1, "b": 2, "c": 3}


def test_what_was_removed_in_a_transaction_is_not_removed_again_after_it():
    session = again(stored(a=1, kept=1))
    with transaction.atomic():
        del session["a"]
        session.save()
    parallel = again(session)
    parallel["a"] = 2
    parallel.save()
    session.save()
    assert again(session)["a"] == 2


def test_a_session_that_was_cleared_after_its_save_in_a_transaction_is_replaced():
    session = again(stored(a=1))
    with transaction.atomic():
        session["b"] = 2
        session.save()
        session.clear()
    parallel = again(session)
    parallel["late"] = 1
    parallel.save()
    session["new"] = 1
    session.save()
    assert dict(again(session).items()) == {"new": 1}


def test_a_login_in_a_transaction_that_rolls_back_leaves_the_old_session_as_it_was():
    session = again(stored(a=1))
    before = session.session_key
    with transaction.atomic():
        session.cycle_key()
        session["_auth_user_id"] = "7"
        session.save()
        transaction.set_rollback(True)
    assert dict(SessionStore(before).items()) == {"a": 1}
