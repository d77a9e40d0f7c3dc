"""An admin site of another name, alone or beside Django's default one, whose pages never lead into the other."""

from __future__ import annotations

import re

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.urls import path
from django.utils import timezone

from pgonly_django.models import Budget, Job, Limiter, Queue, State
from pgonly_django.tasks.editing import version_of
from tests.admin.conftest import make_entry, make_job, make_session
from tests.admin.rows import all_pages

pytestmark = pytest.mark.django_db

site = AdminSite(name="backoffice")
for model in apps.get_app_config("pgonly_django").get_models():
    if admin.site.is_registered(model):
        site.register(model, type(admin.site.get_model_admin(model)))


class Alone:
    urlpatterns = (path("office/", site.urls),)


class Beside:
    urlpatterns = (path("admin/", admin.site.urls), path("office/", site.urls))


@pytest.fixture(params=[Alone, Beside])
def office(request, settings, admin_client):
    settings.ROOT_URLCONF = request.param
    return admin_client


HOME = "/office/pgonly_django/"


@pytest.mark.slow
def test_every_page_opens_and_leads_to_this_site_only(office):
    for page in all_pages(HOME):
        answer = office.get(page)
        assert answer.status_code == 200, page
        links = re.findall(r'(?:href|action)="(/[^"]*)"', answer.text)
        assert links
        assert [link for link in links if link.startswith("/admin/")] == [], page


only_jobs = AdminSite(name="jobs")
only_jobs.register(Job, type(admin.site.get_model_admin(Job)))


class OnlyJobs:
    urlpatterns = (path("office/", only_jobs.urls),)


@pytest.mark.parametrize("columns", [{"queue": "paused"}, {"state": State.HELD, "held_by": "budget:p"}, {}])
def test_a_waiting_job_has_a_page_where_the_site_has_none_of_what_it_waits_for(
    admin_client, settings, columns
):
    settings.ROOT_URLCONF = OnlyJobs
    Queue.objects.create(name="paused", paused_at=timezone.now())
    Budget.objects.create(name="p", usd=1)
    job = make_job(**{"state": State.READY, **columns})
    answer = admin_client.get(f"{HOME}job/{job.pk}/change/")
    assert answer.status_code == 200
    assert 'class="pgonly-waits' in answer.text


def test_every_button_leads_back_to_this_site(office):
    job, waiting = make_job(State.FAILED), make_job(args=[1])
    edited = {"queue": "ai", "priority": "0", "args": "[1]", "version": version_of(waiting)}
    Budget.objects.create(name="p", usd=1)
    Limiter.objects.create(name="l")
    answers = [
        office.post(f"{HOME}budget/p/operate/resume/"),
        office.post(f"{HOME}limiter/l/operate/cool_down_1/"),
        office.post(f"{HOME}budget/p/operate/raise/", {"usd": "no amount"}),
        office.post(f"{HOME}job/{job.pk}/again/", {"queue": "ai", "priority": "0", "args": "[1]"}),
        office.post(f"{HOME}job/{waiting.pk}/edit/", edited),
        office.post(f"{HOME}job/{job.pk}/operate/retry/"),
        office.post(
            f"{HOME}job/", {"action": "cancel_jobs", "_selected_action": [job.pk], "confirmed": "yes"}
        ),
        office.post(f"{HOME}job/{job.pk}/delete/", {"post": "yes"}),
        office.post(f"{HOME}session/{make_session().pk}/delete/", {"post": "yes"}),
        office.post(f"{HOME}durablecacheentry/clear/answers/"),
        office.post(f"{HOME}cacheentry/{make_entry().pk}/delete/", {"post": "yes"}),
    ]
    for answer in answers:
        assert answer.status_code == 302
        assert answer["Location"].startswith("/office/")
