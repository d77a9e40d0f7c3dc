"""The example's pages and a fragment, cached by Django's own middleware and tag in PostgresCache."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from django.db import connection
from django.template import engines
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.views.decorators.vary import vary_on_cookie

from example_project.screening.models import Project
from example_project.screening.views import project_list

FRAGMENT = "{% load cache %}{% cache 60 project project.pk %}{{ project.name }}{% endcache %}"
# The list reads no session, so by itself it is one page for everybody.
urlpatterns = [path("mine/", vary_on_cookie(project_list)), path("", include("example_project.urls"))]


@pytest.fixture(autouse=True)
def site(settings):
    settings.ROOT_URLCONF = __name__
    settings.CACHES = {
        **settings.CACHES,
        "default": {"BACKEND": "pgonly_django.cache.PostgresCache", "LOCATION": "pages"},
    }
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        *settings.MIDDLEWARE,
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    settings.CACHE_MIDDLEWARE_SECONDS, settings.CACHE_MIDDLEWARE_KEY_PREFIX = 60, "example"


def test_the_second_request_for_the_list_asks_nothing_of_the_views_database(client, project):
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
