"""django-silk: it records the requests and the ORM's statements, in which we enqueue and read jobs."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from django.http import HttpResponse
from django.urls import include, path
from silk.models import Request, SQLQuery

from pgonly_django.models import Job
from tests.jobs import add


def visit(request):
    add.enqueue(1)
    cache.set("colour", "red")
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(f"{Job.objects.count()} {cache.get('colour')}")


urlpatterns = [path("", visit), path("silk/", include("silk.urls", namespace="silk"))]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.slow]


def test_a_recorded_request_enqueues_and_its_job_runs(settings, client, work):
    settings.MIDDLEWARE = ["silk.middleware.SilkyMiddleware", *settings.MIDDLEWARE]
    assert [client.get("/").text for _ in range(7)] == [f"{n} red" for n in range(1, 8)]
    assert (Request.objects.count(), SQLQuery.objects.filter(query__contains="pgonly_job").exists()) == (
        7,
        True,
    )
    work()
    assert Job.objects.filter(state="succeeded").count() == 7
