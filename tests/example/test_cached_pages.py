"""The example's pages, and fragments of them, cached by Django's own middleware and tag in PostgresCache."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.cache import cache
from django.core.cache.utils import make_template_fragment_key
from django.db import connection
from django.template import engines
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils import timezone
from django.utils.cache import get_cache_key
from django.views.decorators.vary import vary_on_cookie

from example_project.screening.importers import new_project, read_papers
from example_project.screening.models import Paper, Project, Verdict
from example_project.screening.views import project_list
from pgonly_django.models import CacheEntry
from tests.example.conftest import CSV
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
    return judged(project)


@pytest.fixture
def other(db):
    return judged(new_project("The same again", "Is it a trial?", "In people.", read_papers(CSV.encode())))


def judged(project: Project) -> Project:
    opinions = {name: {"decision": "include", "reason": ""} for name in project.reviewers}
    for paper in project.papers.all():
        Verdict.objects.record(paper, opinions)
    return project


def expire(entries) -> None:
    entries.update(expires_at=timezone.now() - timedelta(seconds=1))


def test_the_second_request_for_the_list_sends_no_query_from_the_view(client, project):
    first = client.get("/")
    with CaptureQueriesContext(connection) as queries:
        again = client.get("/")
    assert len(queries) == 0
    assert again.content == first.content


def test_a_new_name_is_seen_in_the_list_only_after_the_cache_is_cleared(client, project):
    client.get("/")
    Project.objects.update(name="Renamed")
    assert "Renamed" not in client.get("/").text
    cache.clear()
    assert "Renamed" in client.get("/").text


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


def test_one_cached_page_is_deleted_and_the_others_stay(client, project):
    for page in ("/", "/mine/"):
        client.get(page)
    Project.objects.update(name="Renamed")
    assert cache.delete(get_cache_key(RequestFactory().get("/")))
    assert "Renamed" in client.get("/").text
    assert "Renamed" not in client.get("/mine/").text


def test_where_a_page_varies_on_cookie_another_cookie_gets_its_own(client, project, admin_user):
    client.get("/mine/")
    Project.objects.update(name="Renamed")
    signed_in = Client()
    signed_in.force_login(admin_user)
    assert "Renamed" in signed_in.get("/mine/").text
    assert "Renamed" not in client.get("/mine/").text


def test_a_project_page_says_never_cache_and_is_not_kept(client, project):
    page = f"/projects/{project.pk}/"
    client.get(page)
    Project.objects.update(name="Renamed")
    assert "Renamed" in client.get(page).text


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


def test_the_summary_of_one_project_is_deleted_and_another_projects_stays(client, screened, other):
    assert shows_quality(client, screened)
    assert shows_quality(client, other)
    Paper.objects.update(label=None)
    assert cache.delete(summary_key(screened, 0))
    assert not shows_quality(client, screened)
    assert shows_quality(client, other)


def test_each_project_has_its_own_summary(client, screened, other):
    other.papers.update(label=None)
    assert shows_quality(client, screened)
    assert not shows_quality(client, other)


def test_another_run_of_the_job_gets_a_new_summary(client, screened):
    assert shows_quality(client, screened)
    Paper.objects.update(label=None)
    screened.runs.create(papers_done=3)
    assert not shows_quality(client, screened)


def test_a_decision_shows_at_once_beside_a_cached_summary(client, screened):
    page = f"/projects/{screened.pk}/"
    assert '<dd data-fact="excluded">0</dd>' in client.get(page).text
    client.post(f"{page}papers/1/", {"decision": "exclude"})
    assert '<dd data-fact="excluded">1</dd>' in client.get(page).text


def test_before_the_end_there_is_no_summary_and_nothing_is_cached(client, project):
    assert "<h2>Result</h2>" not in client.get(f"/projects/{project.pk}/").text
    assert not CacheEntry.objects.exists()
