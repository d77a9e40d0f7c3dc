"""social-auth-app-django: what its pipeline keeps in the session survives our engine."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import RequestFactory
from social_core.exceptions import AuthSessionError
from social_django.utils import load_backend, load_strategy

from pgonly_django.sessions import SessionStore

pytestmark = pytest.mark.slow


def request_with(session):
    request = RequestFactory().get("/")
    request.session = session
    return request


def test_values_of_a_pipeline_come_back_from_the_session(transactional_db):
    ann = User.objects.create_user("ann")
    session = SessionStore()
    strategy = load_strategy(request_with(session))
    kept = {"user": ann, "is_new": True, "names": ("a", "b"), "details": {"email": "a@example.org"}}
    for name, value in kept.items():
        strategy.session_set(name, strategy.to_session_value(value))
    session.save()
    again = load_strategy(request_with(SessionStore(session.session_key)))
    found = {name: again.from_session_value(again.session_get(name)) for name in kept}
    assert (found["user"], found["details"], list(found["names"])) == (ann, kept["details"], ["a", "b"])


def backend_of(session):
    return load_backend(load_strategy(request_with(session)), "google-oauth2", "/complete/")


def test_a_callback_finds_its_state_in_the_session_and_in_no_other(transactional_db):
    session, other = SessionStore(), SessionStore()
    state = backend_of(session).get_or_create_state()
    session.save()
    other.save()
    callback = backend_of(SessionStore(session.session_key))
    callback.data = {"state": state}
    assert callback.validate_state() == state
    forged = backend_of(SessionStore(other.session_key))
    forged.data = {"state": state}
    with pytest.raises(AuthSessionError):
        forged.validate_state()
