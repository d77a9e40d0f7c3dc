"""Links from one of our pages to another: text where the site has no such page, or the reader may not open it."""

from __future__ import annotations

import re

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.contrib.auth.models import Permission
from django.urls import Resolver404, path, resolve

from pgonly_django.models import Budget, CostEntry, Job, Limiter, Overview, Queue, Schedule, Worker
from tests.admin.rows import pages_of

pytestmark = pytest.mark.django_db
MODELS = [
    model for model in apps.get_app_config("pgonly_django").get_models() if admin.site.is_registered(model)
]


def urls_with(model):
    site = AdminSite(name=f"only_{model._meta.model_name}")
    site.register(model, type(admin.site.get_model_admin(model)))
    return type("Urls", (), {"urlpatterns": (path("office/", site.urls),)})


# Without any other model there is nothing for the overview to show.
WITH_PAGES = [model for model in MODELS if model is not Overview]
ALONE = {model: urls_with(model) for model in WITH_PAGES}


def test_every_model_of_the_admin_has_rows_here(rows):
    assert set(rows) == set(MODELS)


@pytest.mark.sample(2)
@pytest.mark.parametrize("model", WITH_PAGES)
def test_pages_of_a_model_that_is_alone_on_its_site_lead_to_pages_that_are_there(
    admin_client, settings, rows, model
):
    settings.ROOT_URLCONF = ALONE[model]
    for page in pages_of(model, rows, "/office/pgonly_django/"):
        answer = admin_client.get(page)
        assert answer.status_code == 200, page
        assert "pgonly-problem" not in answer.text, page
        assert "could not be shown" not in answer.text, page
        for link in re.findall(r'(?:href|action)="(/(?:office|admin)/[^"?#]*)', answer.text):
            assert leads_somewhere(link, settings), (page, link)


def leads_somewhere(link, settings):
    try:
        view = resolve(link, settings.ROOT_URLCONF)
    except Resolver404:
        return False
    return view.func.__name__ != "catch_all_view"


@pytest.mark.slow
@pytest.mark.parametrize("model", WITH_PAGES)
def test_a_reader_of_one_model_sees_no_link_that_refuses_him(client, person, rows, model):
    user = person(f"view_{model._meta.model_name}")
    user.user_permissions.add(Permission.objects.get(codename="view_job_data"))
    for page in pages_of(model, rows, "/admin/pgonly_django/"):
        answer = client.get(page)
        assert answer.status_code == 200, page
        for link in re.findall(r'href="(/admin/[^"#]*)', answer.text):
            assert client.get(link.replace("&amp;", "&"), follow=True).status_code == 200, (page, link)


LINKED = [Limiter, Budget, CostEntry, Schedule, Worker, Queue]


@pytest.mark.parametrize("model", LINKED)
def test_who_may_view_jobs_is_led_to_them(client, person, rows, model):
    person(f"view_{model._meta.model_name}", "view_job")
    pages = pages_of(model, rows, "/admin/pgonly_django/")[1:]
    assert any('href="/admin/pgonly_django/job/' in client.get(page).text for page in pages)


def test_why_a_job_waits_leads_to_pages_that_the_reader_may_open(client, person, rows):
    _running, waiting, by_budget, *_others = rows[Job]
    person("view_job", "view_limiter", "view_budget")
    text = client.get(f"/admin/pgonly_django/job/{waiting.pk}/change/").text
    waits = re.search(r'<div class="pgonly-waits.*?</div>', text, re.DOTALL)[0]
    assert "the queue “ai” has been paused" in waits
    assert re.findall(r'href="([^"]*)"', waits) == ["/admin/pgonly_django/limiter/l_3A1/change/"]
    text = client.get(f"/admin/pgonly_django/job/{by_budget.pk}/change/").text
    assert 'href="/admin/pgonly_django/budget/p_3A1/change/"' in text
