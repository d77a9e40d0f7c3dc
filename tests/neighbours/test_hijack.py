"""django-hijack: the session changes its user, and back."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import include, path

from pgonly_django.models import Session

urlpatterns = [
    path("hijack/", include("hijack.urls")),
    path("devices/", include("pgonly_django.sessions.urls")),
    path("", lambda request: HttpResponse(request.user.get_username())),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.slow]


def shown(browser):
    """How many devices its page lists."""
    answer = browser.get("/devices/")
    assert answer.status_code == 200
    return len(answer.context["devices"])


def test_the_session_belongs_to_the_hijacked_user_and_to_the_hijacker_after_the_release(transactional_db):
    root, ann = User.objects.create_superuser("root"), User.objects.create_user("ann")
    browser = Client()
    browser.force_login(root)
    assert [each.user_id for each in Session.objects.all()] == [str(root.pk)]
    assert browser.post("/hijack/acquire/", {"user_pk": ann.pk}).status_code == 302
    assert (browser.get("/").text, [each.user_id for each in Session.objects.all()]) == ("ann", [str(ann.pk)])
    assert shown(browser) == 1
    of_ann = Client()
    of_ann.force_login(ann)
    assert shown(of_ann) == 2
    assert browser.post("/hijack/release/").status_code == 302
    assert (browser.get("/").text, shown(browser), shown(of_ann)) == ("root", 1, 1)


def test_who_ends_the_sessions_of_the_hijacked_user_ends_this_one_too(transactional_db):
    root, ann = User.objects.create_superuser("root"), User.objects.create_user("ann")
    browser = Client()
    browser.force_login(root)
    browser.post("/hijack/acquire/", {"user_pk": ann.pk})
    assert Session.objects.filter(user_id=ann.pk).revoke() == 1
    assert browser.get("/").text == ""
