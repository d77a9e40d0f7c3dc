"""Links from one of our pages to another: text where the site has no such page, or the reader may not open it."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission
from django.urls import Resolver404, path, resolve
from django.utils import timezone

from pgonly_django.models import (
    Budget,
    CacheEntry,
    CostEntry,
    DurableCacheEntry,
    Job,
    Limiter,
    LimiterSlot,
    LimiterWaiter,
    Queue,
    Schedule,
    Session,
    State,
    Tick,
    Worker,
)
from tests.admin.conftest import make_entry, make_job, make_session
from tests.admin.test_workers import make_worker
from tests.scheduling.rows import make as make_schedule

pytestmark = pytest.mark.django_db
MODELS = [
    model for model in apps.get_app_config("pgonly_django").get_models() if admin.site.is_registered(model)
]


def urls_with(model):
    site = AdminSite(name=f"only_{model._meta.model_name}")
    site.register(model, type(admin.site.get_model_admin(model)))
    return type("Urls", (), {"urlpatterns": (path("office/", site.urls),)})


ALONE = {model: urls_with(model) for model in MODELS}


@pytest.fixture
def rows():
    """One of each model at least, which name each other in all ways that a page shows."""
    now, soon = timezone.now(), timezone.now() + timedelta(minutes=1)
    worker = make_worker()
    running = make_job(State.RUNNING, queue="ai", worker_id=worker.pk, attempted_at=now)
    waiting = make_job(queue="ai")
    by_budget = make_job(State.HELD, held_by="budget:p:1")
    budget = Budget.objects.create(name="p:1", usd=1)
    limiter = Limiter.objects.create(name="l:1", concurrent=1, blocked_until=soon)
    who = f"job {running.pk} (tests.jobs.add)"
    LimiterSlot.objects.create(
        limiter="l:1", number=1, holder=uuid4(), who=who, taken_at=now, expires_at=soon
    )
    LimiterWaiter.objects.create(id=uuid4(), limiter="l:1", who=who, tokens=1, expires_at=soon)
    queue = Queue.objects.create(name="ai", limiter="l:1", max_running=1, paused_at=now)
    cost = CostEntry.objects.create(usd=1, budget="p:1", job_id=running.pk, task="tests.jobs.add")
    schedule = make_schedule(problem="It could not be.")
    Tick.objects.create(schedule=schedule, tick_at=now, job_id=running.pk, at=now, outcome="enqueued")
    durable = make_entry(DurableCacheEntry)
    return {
        Job: [running, waiting, by_budget], Worker: [worker], Budget: [budget], Limiter: [limiter],
        Queue: [queue], CostEntry: [cost], Schedule: [schedule], Session: [make_session()],
        CacheEntry: [make_entry()], DurableCacheEntry: [durable],
    }  # fmt: skip


def pages_of(model, rows, home):
    of_model = f"{home}{model._meta.model_name}/"
    more = {CostEntry: ["sums/"], CacheEntry: ["numbers/"], DurableCacheEntry: ["numbers/"]}
    pages = [home, of_model, *(f"{of_model}{page}" for page in more.get(model, []))]
    if model is not CostEntry:  # its list leads to no pages
        pages += [f"{of_model}{quote(str(row.pk))}/change/" for row in rows[model]]
    return pages


def test_every_model_of_the_admin_has_rows_here(rows):
    assert set(rows) == set(MODELS)


@pytest.mark.sample(2)
@pytest.mark.parametrize("model", MODELS)
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
@pytest.mark.parametrize("model", MODELS)
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
    _running, waiting, by_budget = rows[Job]
    person("view_job", "view_limiter", "view_budget")
    text = client.get(f"/admin/pgonly_django/job/{waiting.pk}/change/").text
    waits = re.search(r'<div class="pgonly-waits.*?</div>', text, re.DOTALL)[0]
    assert "the queue “ai” is paused" in waits
    assert re.findall(r'href="([^"]*)"', waits) == ["/admin/pgonly_django/limiter/l_3A1/change/"]
    text = client.get(f"/admin/pgonly_django/job/{by_budget.pk}/change/").text
    assert 'href="/admin/pgonly_django/budget/p_3A1/change/"' in text
