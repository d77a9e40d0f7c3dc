"""Queues in the admin: what waits and runs, limits, pause and resume."""

from __future__ import annotations

import pytest
from django.contrib.admin.utils import quote
from django.utils import timezone

from pgonly_django.models import Limiter, Queue, QueueTokens
from tests.admin.conftest import act
from tests.admin.jobs.test_cells import cells
from tests.queue.rows import HOUR, make, make_keyed, make_running

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/pgonly_django/queue/"
PAGE = f"{LIST}ai/change/"
LIMITS = {"max_running": 5, "rate_count": None, "rate_seconds": None, "limiter": None}
FORM = {"max_running": "5", "rate_count": "", "rate_seconds": "", "limiter": ""}


def declared(**limits):
    values = {**LIMITS, **limits}
    return Queue.objects.create(name="ai", declared=values, **values)


def test_the_list_says_what_waits_and_runs(admin_client):
    declared()
    Queue.objects.named("default")
    make(queue="ai"), make_keyed("a", queue="ai"), make(queue="ai", crashes=2), make_running(queue="ai")
    response = admin_client.get(LIST)
    assert cells(response, "waiting") == ["3", "0"]
    assert "1 of 5" in cells(response, "running")[0]
    assert cells(response, "running")[1] == "0"
    assert all("Open" in cell for cell in cells(response, "state_badge"))


def test_large_counts_end_at_a_cap(admin_client, monkeypatch):
    declared()
    monkeypatch.setattr("pgonly_django.admin.queues.COUNTED_AT_MOST", 2)
    for _ in range(5):
        make(queue="ai")
    assert cells(admin_client.get(LIST), "waiting") == ["2+"]


def test_the_state_says_why_nothing_starts(admin_client):
    declared(max_running=1)
    make(queue="ai"), make_running(queue="ai")
    assert "Full" in cells(admin_client.get(LIST), "state_badge")[0]
    Queue.objects.all().edit(max_running=None, rate_count=1, rate_seconds=3600.0)
    QueueTokens.objects.create(queue="ai", tokens=0, refilled_at=timezone.now())
    assert "Waits for its rate" in cells(admin_client.get(LIST), "state_badge")[0]
    Limiter.objects.create(name="deepseek", blocked_until=timezone.now() + HOUR)
    Queue.objects.all().edit(limiter="deepseek")
    assert "Cools down" in cells(admin_client.get(LIST), "state_badge")[0]
    Queue.objects.all().pause()
    assert "Paused" in cells(admin_client.get(LIST), "state_badge")[0]


@pytest.mark.parametrize("name", ["ai", 'a "quoted"/name & <b>'])
def test_a_button_pauses_and_resumes(admin_client, name):
    Queue.objects.named(name)
    for label, is_paused in (("Pause", True), ("Resume", False)):
        assert f">{label}<" in admin_client.get(f"{LIST}{quote(name)}/change/").text
        admin_client.post(f"{LIST}{quote(name)}/operate/{label.lower()}/")
        assert (Queue.objects.get().paused_at is not None) == is_paused


def test_an_action_pauses_many(admin_client):
    Queue.objects.named("a", "b", "c")
    act(admin_client, "pause_queues", Queue.objects.exclude(name="c"), LIST)
    assert set(Queue.objects.filter(paused_at__isnull=False).values_list("name", flat=True)) == {"a", "b"}


def test_an_edit_survives_a_deploy_until_it_is_reset(admin_client):
    declared()
    assert admin_client.post(PAGE, {**FORM, "max_running": "2"}).status_code == 302
    Queue.objects.declare({"ai": {**LIMITS, "max_running": 9}})
    assert Queue.objects.get().max_running == 2
    assert b"does not follow the settings" in admin_client.get(PAGE).content
    admin_client.post(f"{LIST}ai/operate/reset/")
    assert Queue.objects.get().max_running == 9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate_count": "5"}, "A rate needs both"),
        ({"rate_seconds": "5"}, "A rate needs both"),
        ({"max_running": "0"}, "a whole number from 1"),
        ({"rate_count": "0", "rate_seconds": "5"}, "a pair such as (10, 60)"),
        ({"rate_count": "1", "rate_seconds": "-1"}, "a pair such as (10, 60)"),
        ({"rate_count": "1", "rate_seconds": "nan"}, "Enter a number"),
        ({"limiter": "unknown"}, "Select a valid choice"),
    ],
)
def test_a_limit_that_no_claim_could_obey_is_refused(admin_client, changes, said):
    declared()
    response = admin_client.post(PAGE, {**FORM, **changes})
    assert response.status_code == 200
    assert said in response.text
    assert Queue.objects.get().edited_at is None


def test_a_queue_that_has_jobs_and_no_row_is_offered(admin_client):
    make(queue="mail & more")
    assert "add/?name=mail%20%26%20more" in admin_client.get(LIST).text
    admin_client.post(f"{LIST}add/", {**FORM, "name": "mail & more", "max_running": "1"})
    assert Queue.objects.get().max_running == 1
    assert "add/?name=" not in admin_client.get(LIST).text


def test_only_a_queue_that_no_setting_declares_can_be_deleted(admin_client, settings):
    settings.PGONLY = {**settings.PGONLY, "QUEUES": {"ai": {"max_running": 5}}}
    declared(), Queue.objects.named("other")
    assert admin_client.post(f"{LIST}ai/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"{LIST}other/delete/", {"post": "yes"}).status_code == 302
    assert Queue.objects.get().name == "ai"
