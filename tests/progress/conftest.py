from __future__ import annotations

import threading

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.cache import SessionStore
from django.db.backends.signals import connection_created
from django.template import engines
from django.test import RequestFactory

from pgonly_django.progress.tokens import Grant
from tests.waiting import wait_for


def threads():
    """Of all looks."""
    return [each for each in threading.enumerate() if each.name == "pgonly-progress"]


@pytest.fixture(autouse=True)
def _no_look_of_another_test():
    wait_for(lambda: not threads())


@pytest.fixture
def ada(db):
    return User.objects.create_user("ada", password="-")


@pytest.fixture
def request_of():
    """A request of this user, or of a visitor with a session."""

    def request_of(user=None, session=None, path="/page/?a=1"):
        request = RequestFactory().get(path)
        request.user = user or AnonymousUser()
        request.session = SessionStore() if session is None else session
        return request

    return request_of


@pytest.fixture
def render(request_of):
    """The text of a template with the tag, as this user gets it."""

    def render(options, job, user=None, request=None):
        template = engines["django"].from_string("{% load pgonly %}{% job_progress job " + options + " %}")
        return template.render({"job": job}, request or request_of(user))

    return render


@pytest.fixture
def token_of():
    def token_of(job, user, backend="default", **grant):
        return Grant(backend, str(job.pk), **grant).token(f"user {user.pk}")

    return token_of


@pytest.fixture
def statements():
    """(name of the thread, SQL) of each statement on a connection that is new; a connection itself is None."""
    seen, wrapped = [], []

    def note(execute, sql, params, many, context):
        seen.append((threading.current_thread().name, sql))
        return execute(sql, params, many, context)

    def wrap(connection, **_kwargs):
        seen.append((threading.current_thread().name, None))
        connection.execute_wrappers.append(note)
        wrapped.append(connection)

    connection_created.connect(wrap)
    yield seen
    connection_created.disconnect(wrap)
    for each in wrapped:
        each.execute_wrappers.remove(note)
