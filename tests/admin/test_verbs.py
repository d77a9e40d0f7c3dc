"""A verb works for any model: it locks the rows, calls the QuerySet's verb, logs each row and tells the person."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db.models import Q
from django.urls import path
from django.utils import timezone

from pgonly_django.admin.verbs import Verb, VerbAdmin
from pgonly_django.models import Worker
from tests.admin.test_workers import make_worker

pytestmark = pytest.mark.django_db

STOP = Verb(
    name="stop",
    method=lambda _request, workers: workers.update(stopped_at=timezone.now()),
    label="Stop",
    logged="Stopped.",
    allowed=Q(stopped_at=None),
    allows=lambda worker: worker.stopped_at is None,
)
site = admin.AdminSite(name="verbs")


@admin.register(Worker, site=site)
class StoppableAdmin(VerbAdmin):
    verbs = (STOP,)
    actions = (STOP.as_action("workers"),)


class Urls:
    urlpatterns = (path("", site.urls),)


@pytest.fixture(autouse=True)
def _site(settings):
    settings.ROOT_URLCONF = Urls


LIST = "/pgonly_django/worker/"


def test_an_action_changes_logs_and_counts_the_rows_that_allow_it(admin_client, admin_user):
    workers = [make_worker(name="one"), make_worker(name="two"), make_worker(stopped_at=timezone.now())]
    data = {"action": "stop_workers", "_selected_action": [worker.pk for worker in workers]}
    answer = admin_client.post(LIST, data, follow=True)
    assert [str(message) for message in answer.context["messages"]] == ["Stop: 2 workers."]
    assert not Worker.objects.filter(stopped_at=None).exists()
    logged = {(entry.user, entry.object_repr, entry.change_message) for entry in LogEntry.objects.all()}
    assert logged == {(admin_user, "one", "Stopped."), (admin_user, "two", "Stopped.")}
    assert "Stop selected workers" in answer.text


def test_a_button_changes_its_row_and_leads_back_to_the_rows_page(admin_client):
    worker, other = make_worker(), make_worker()
    answer = admin_client.post(f"{LIST}{worker.pk}/operate/stop/")
    assert answer["Location"] == f"{LIST}{worker.pk}/change/"
    assert list(Worker.objects.filter(stopped_at=None)) == [other]


def test_a_row_has_the_buttons_that_it_allows(rf, admin_user):
    request, stoppable = rf.get("/"), site.get_model_admin(Worker)
    request.user = admin_user
    assert stoppable.verbs_for(request, make_worker()) == [STOP]
    assert stoppable.verbs_for(request, make_worker(stopped_at=timezone.now())) == []


def test_without_the_operate_permission_of_the_model_there_is_neither_action_nor_button(client, person):
    worker = make_worker()
    person("view_worker", "operate_job")
    assert "stop_workers" not in client.get(LIST).text
    assert client.post(f"{LIST}{worker.pk}/operate/stop/").status_code == 403
