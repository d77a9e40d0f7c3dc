"""The list of the app in the sidebar of the admin: its caption, the overview and the doctor, for whom they are."""

from __future__ import annotations

import re

import pytest
from django.contrib.admin import AdminSite, site
from django.urls import path

from pgonly_django.models import Doctor, Job, Overview

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
        (["view_job"], {"Overview", "Jobs"}),
        (["view_job", "view_wait"], {"Overview", "Jobs", "Waiting for people"}),
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
