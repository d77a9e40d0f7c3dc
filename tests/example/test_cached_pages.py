"""The example's pages, and fragments of them, cached by Django's own middleware and tag in PostgresCache."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.cache import cache
from django.core.cache.utils import make_template_fragment_key
from django.db import connection
from django.template import engines
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import timezone
from django.views.decorators.vary import vary_on_cookie

from example_project.screening.models import Paper, Project, Verdict
from example_project.screening.views import project_list
from pgonly_django.models import CacheEntry
from tests.example.conftest import opinions
from tests.waiting import PATIENT

pytestmark = pytest.mark.slow

FRAGMENT = "{% load cache %}{% cache 60 project project.pk %}{{ project.name }}{% endcache %}"
# The list reads no session, so without vary_on_cookie all users share one page.
urlpatterns = [path("mine/", vary_on_cookie(project_list)), path("", include("example_project.urls"))]


@pytest.fixture(autouse=True)
def site(settings):
    settings.ROOT_URLCONF = __name__
    settings.CACHES = {
        **settings.CACHES,
        "default": {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "pages", "OPTIONS": PATIENT},
    }
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        *settings.MIDDLEWARE,
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    settings.CACHE_MIDDLEWARE_SECONDS, settings.CACHE_MIDDLEWARE_KEY_PREFIX = 60, "example"


@pytest.fixture
def screened(project):
    """The project with all its papers judged, so that its page has a summary."""
    for paper in project.papers.all():
        Verdict.objects.record(paper, opinions("include", "include"))
    return project


def expire(entries) -> None:
    entries.update(expires_at=timezone.now() - timedelta(seconds=1))


def test_the_second_request_for_the_list_sends_no_query_from_the_view(client, project):
    first = client.get("/")
    with CaptureQueriesContext(connection) as queries:
        again = client.get("/")
    assert len(queries) == 0
    assert again.content == first.content


def test_a_cached_page_is_made_again_after_it_expires(client, project):
    client.get("/")
    Project.objects.update(name="Renamed")
    assert "Renamed" not in client.get("/").text
    in_time = CacheEntry.objects.filter(
        expires_at__range=(timezone.now(), timezone.now() + timedelta(seconds=60))
    )
    assert in_time.count() == 2, "the page and the list of headers it varies on"
    expire(in_time)
    assert "Renamed" in client.get("/").text


def test_where_a_page_varies_on_cookie_another_cookie_gets_its_own(client, project, admin_user):
    client.get("/mine/")
    Project.objects.update(name="Renamed")
    signed_in = Client()
    signed_in.force_login(admin_user)
    assert "Renamed" in signed_in.get("/mine/").text
    assert "Renamed" not in client.get("/mine/").text


def test_a_fragment_is_kept_until_the_cache_is_cleared(project):
    template = engines["django"].from_string(FRAGMENT)
    assert template.render({"project": project}) == "Three papers"
    project.name = "Renamed"
    assert template.render({"project": project}) == "Three papers"
    cache.clear()
    assert template.render({"project": project}) == "Renamed"


def shows_quality(client, project) -> bool:
    """Whether the summary on the project's page shows precision and recall, which need labels."""
    text = client.get(f"/projects/{project.pk}/").text
    assert "<h2>Result</h2>" in text
    return "precision / recall" in text


def summary_key(project, history: int) -> str:
    return make_template_fragment_key("screening_summary", [project.pk, history])


def test_the_summary_is_computed_once_and_then_comes_from_the_cache(client, screened):
    with CaptureQueriesContext(connection) as computed:
        assert shows_quality(client, screened)
    Paper.objects.update(label=None)
    with CaptureQueriesContext(connection) as kept:
        assert shows_quality(client, screened)
    assert len(kept) < len(computed)


def test_the_summary_is_computed_again_after_ten_minutes(client, screened):
    assert shows_quality(client, screened)
    assert 590 < cache.ttl(summary_key(screened, 0)) <= 600
    Paper.objects.update(label=None)
    expire(CacheEntry.objects.all())
    assert not shows_quality(client, screened)


def test_a_decision_shows_at_once_beside_a_cached_summary(client, screened):
    page = f"/projects/{screened.pk}/"
    assert '<dd data-fact="excluded">0</dd>' in client.get(page).text
    client.post(f"{page}papers/1/", {"decision": "exclude"})
    assert '<dd data-fact="excluded">1</dd>' in client.get(page).text
