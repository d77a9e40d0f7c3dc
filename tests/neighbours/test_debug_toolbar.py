"""django-debug-toolbar: its panels see what a request did with our cache and its statements; jobs are unharmed."""

from __future__ import annotations

import pytest
from debug_toolbar.store import get_store
from django.core.cache import cache
from django.http import HttpResponse
from django.urls import include, path

from pgonly_django.models import Job
from tests.jobs import add


def visit(request):
    cache.set("colour", "red")
    cache.get_or_set("number", lambda: 5)
    request.session["visits"] = request.session.get("visits", 0) + 1
    cache.get_many(["colour", "number", "none"])
    add.enqueue(1, b=2)
    return HttpResponse(f"<body>{Job.objects.count()}</body>")


urlpatterns = [
    path("", visit),
    path("pgonly/", include("pgonly_django.urls")),
    path("__debug__/", include("debug_toolbar.urls")),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.slow]


@pytest.fixture
def stats(client, transactional_db):
    """What the panels recorded of a request."""

    def visited(path="/"):
        get_store().clear()
        answer = client.get(path)
        assert answer.status_code == 200
        (request_id,) = get_store().request_ids()
        return answer, lambda panel: get_store().panel(request_id, panel)

    return visited


def test_it_shows_our_statements_in_the_request(stats):
    for _ in range(8):  # a statement that is used often is prepared, and passes no cursor of Django's then
        _, panel = stats()
    statements = [query["sql"] for query in panel("SQLPanel")["queries"]]
    assert any("INTO pgonly_job" in sql or '"pgonly_job"' in sql for sql in statements)
    assert any("INSERT" in sql and "pgonly_job" in sql for sql in statements)
    assert any("pgonly_session" in sql for sql in statements)


def test_it_counts_the_calls_of_our_cache(stats):
    _, panel = stats()
    found = panel("CachePanel")
    assert (found["counts"]["set"], found["counts"]["get_or_set"], found["counts"]["get_many"]) == (1, 1, 1)
    assert cache.get("colour") == "red"
