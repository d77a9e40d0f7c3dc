"""django-allauth's logins, its rate limits in our cache, and its list of sessions with our engine."""

from __future__ import annotations

import pytest
from allauth.usersessions.models import UserSession
from django.contrib.auth.models import User
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import include, path

from pgonly_django.models import Session
from pgonly_django.neighbours import check_usersessions

urlpatterns = [
    path("accounts/", include("allauth.urls")),
    path("", lambda request: HttpResponse(request.user.get_username())),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.slow]
ANN = {"login": "ann", "password": "a long one"}


@pytest.fixture
def ann(transactional_db):
    return User.objects.create_user("ann", password=ANN["password"])


def logged_in():
    browser = Client()
    assert browser.post("/accounts/login/", ANN).status_code == 302
    assert browser.get("/").text == "ann"
    return browser


def test_a_login_is_a_session_of_its_user(ann):
    browser = logged_in()
    assert Session.objects.get().user_id == str(ann.pk)
    browser.post("/accounts/logout/")
    assert (browser.get("/").text, Session.objects.filter(user_id=ann.pk).count()) == ("", 0)


def test_failed_logins_are_counted_in_our_cache(ann):
    for _ in range(3):
        Client().post("/accounts/login/", {**ANN, "password": "wrong"})
    answer = Client().post("/accounts/login/", ANN)
    assert (answer.status_code, "Too many failed login attempts" in answer.text) == (200, True)
    assert cache.keys("*login_failed*")


def test_usersessions_lists_ends_and_forgets_sessions_of_our_engine(ann):
    here, there = logged_in(), logged_in()
    assert UserSession.objects.filter(user=ann).count() == 2
    assert all(each.exists() for each in UserSession.objects.all())
    UserSession.objects.get(session_key=there.cookies["sessionid"].value).end()
    assert (there.get("/").text, here.get("/").text) == ("", "ann")
    Session.objects.filter(user_id=ann.pk).revoke()
    assert UserSession.objects.purge_and_list(ann) == []


def test_it_stores_keys_that_log_in_which_ours_does_not_and_the_check_says_so(ann):
    logged_in()
    stolen = Client()
    stolen.cookies["sessionid"] = UserSession.objects.get().session_key
    assert stolen.get("/").text == "ann"
    assert [each.id for each in check_usersessions()] == ["pgonly_django.W072"]


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db")
def test_with_another_engine_the_check_is_silent():
    assert check_usersessions() == []
