"""django-pghistory, whose context rewrites statements on Django's connection; its triggers see what jobs write."""

from __future__ import annotations

import pghistory
import pgtrigger
import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from pghistory.models import Context

from pgonly_django import task
from pgonly_django.models import Job
from tests.jobs import add
from tests.neighbours.tracked.models import Book


@task
def write(title):
    with pghistory.context(title=title):
        Book.objects.create(title=title)


def visit(request):
    Book.objects.create(title="On rivers")
    request.session["visits"] = request.session.get("visits", 0) + 1
    cache.set("colour", "red")
    result = add.enqueue(1, b=2)
    result.refresh()
    return HttpResponse(f"{Job.objects.count()} {request.session['visits']} {result.status}")


urlpatterns = [path("", visit)]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.slow]


@pytest.fixture
def watched(transactional_db):
    pgtrigger.install()


def events():
    return list(Book.pgh_event_model.objects.values_list("title", "pgh_context__metadata__title"))


def test_enqueueing_and_sessions_work_where_its_context_rewrites_statements(watched, work):
    ann = User.objects.create(username="ann")
    browser = Client()
    browser.force_login(ann)
    assert [browser.post("/").text for _ in range(7)] == [f"{n} {n} READY" for n in range(1, 8)]
    assert {context.metadata["user"] for context in Context.objects.all()} == {ann.pk}
    work()
    assert Job.objects.filter(state="succeeded").count() == 7


def test_what_a_job_writes_is_noted_with_its_context(watched, work):
    write.enqueue("On lakes")
    work()
    assert events() == [("On lakes", "On lakes")]
