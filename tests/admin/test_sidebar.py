"""The list of the app in the sidebar of the admin: its caption, the overview and the doctor, for whom they are."""

from __future__ import annotations

import re

import pytest
from django.contrib.admin import AdminSite, site
from django.urls import path

from pgonly_django.models import Doctor, Job, Overview, Queue, State
from tests.admin.conftest import make_job
from tests.queue.rows import HOUR, MINUTE, ago, make, make_worker

pytestmark = pytest.mark.django_db
HOME = "/admin/pgonly_django/"


def app_in_sidebar(response) -> str:
    sidebar = re.search(r'<nav [^>]*id="nav-sidebar".*?</nav>', response.text, re.DOTALL)[0]
    return re.search(r'<div class="app-pgonly_django module.*?</table>', sidebar, re.DOTALL)[0]


def sidebar_of(response) -> dict[str, str]:
    """The address of each entry."""
    links = re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', app_in_sidebar(response))
    return {name: address for address, name in links if name != "Add"}


def test_the_caption_says_what_the_app_is_for(admin_client):
    assert re.search(
        r"<caption>\s*<a [^>]*>Jobs, cache, sessions</a>", app_in_sidebar(admin_client.get(f"{HOME}job/"))
    )


def test_the_overview_and_the_doctor_are_among_the_models_on_every_page(admin_client):
    for page in (f"{HOME}job/", f"{HOME}doctor/", "/admin/auth/user/"):
        entries = sidebar_of(admin_client.get(page))
        assert entries["Overview"] == f"{HOME}overview/"
        assert entries["Doctor"] == f"{HOME}doctor/"
    answer = admin_client.get(entries["Overview"], follow=True)
    assert answer.redirect_chain == [(HOME, 302)]
    assert 'class="pgonly-overview"' in answer.text


@pytest.mark.parametrize(
    ("may", "listed"),
    [
        (["view_job"], {"Overview", "Jobs", "Batches"}),
        (["view_job", "view_wait"], {"Overview", "Jobs", "Batches", "Waiting for people"}),
        (["view_doctor"], {"Doctor"}),
    ],
)
def test_each_is_listed_for_those_who_may_open_it(client, person, may, listed):
    person(*may)
    page = f"{HOME}job/" if "view_job" in may else f"{HOME}doctor/"
    assert sidebar_of(client.get(page)).keys() - {"Jobs, cache, sessions"} == listed


some_site = AdminSite(name="some")
for model in (Job, Overview):
    some_site.register(model, type(site.get_model_admin(model)))


class SomeSite:
    urlpatterns = (path("office/", some_site.urls),)


def test_a_site_lists_those_that_are_registered_with_it(admin_client, settings):
    settings.ROOT_URLCONF = SomeSite
    entries = sidebar_of(admin_client.get("/office/pgonly_django/job/"))
    assert entries["Overview"] == "/office/pgonly_django/overview/"
    assert "Doctor" not in entries
    assert Doctor not in some_site._registry


def test_neither_has_pages_of_rows(admin_client):
    for page in ("overview/add/", "doctor/add/", "doctor/x/change/", "doctor/x/delete/"):
        assert admin_client.get(f"{HOME}{page}").status_code == 404, page


def test_its_models_are_in_the_order_of_use(admin_client):
    names = [*sidebar_of(admin_client.get("/admin/auth/user/"))]
    assert names == [
        "Jobs, cache, sessions", "Overview", "Jobs", "Batches", "Waiting for people", "Queues", "Workers", "Schedules",
        "Costs", "Budgets", "Limiters", "Cache entries", "Durable cache entries", "Sessions", "Doctor",
    ]  # fmt: skip


def test_the_overview_has_the_sidebar_as_every_page(admin_client):
    assert sidebar_of(admin_client.get(HOME)) == sidebar_of(admin_client.get(f"{HOME}job/"))


def first_page(client) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", client.get("/admin/").text).split())


def test_the_first_page_says_how_many_things_need_attention_beside_the_overview(admin_client, client, person):
    make_worker()
    assert "need attention" not in first_page(admin_client)
    make_job(State.FAILED, errors=[{"outcome": "crashed"}], finished_at=ago(MINUTE))
    assert "Overview: 1 needs attention" in first_page(admin_client)
    make(queue="ai", ready_at=ago(HOUR)), Queue.objects.named("ai").pause()
    assert "Overview: 2 need attention" in first_page(admin_client)
    assert "attention" not in app_in_sidebar(admin_client.get(f"{HOME}job/"))
    person("view_queue")
    assert "Overview: 1 needs attention" in first_page(client)


class Own(AdminSite):
    def get_app_list(self, request, app_label=None):
        return super().get_app_list(request, app_label)[:1]


own_site = Own(name="own")
for model in (Job, Overview, Doctor):
    own_site.register(model, type(site.get_model_admin(model)))


class OwnSite:
    urlpatterns = (path("own/", own_site.urls), path("admin/", site.urls))


def test_a_site_with_its_own_list_of_apps_has_the_order_too(admin_client, settings):
    settings.ROOT_URLCONF = OwnSite
    make_job(State.FAILED, errors=[{"outcome": "crashed"}], finished_at=ago(MINUTE))
    apps = admin_client.get("/own/").context["app_list"]
    assert [model["name"] for model in apps[0]["models"]] == [
        "Overview: 1 needs attention", "Jobs", "Doctor",
    ]  # fmt: skip
