from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from pgonly_django.models import State, Worker
from tests.admin.conftest import act, make_job, said
from tests.admin.jobs.test_cells import cells
from tests.queue import rows
from tests.queue.rows import MINUTE, ago, make_running

pytestmark = pytest.mark.django_db
LIST = "/admin/pgonly_django/worker/"


def page_of(worker):
    return f"{LIST}{worker.pk}/change/"


def make_worker(heard_seconds_ago=1.0, **fields):
    facts = {"name": "web-1", "hostname": "host", "pid": 4001, "threads": 16, **fields}
    return rows.make_worker(timedelta(seconds=heard_seconds_ago), **facts)


def test_a_worker_is_shown_with_what_it_serves(admin_client):
    worker = make_worker(queues=["mail", "llm"], running=7)
    for _ in range(2):
        make_running(worker.pk)
    response = admin_client.get(LIST)
    assert cells(response, "served") == ["mail, llm"]
    assert cells(response, "threads") == ["16"]
    assert cells(response, "held") == ["2"]
    assert "web-1" in cells(response, "worker_name")[0]
    assert "host, process 4001" in cells(response, "worker_name")[0]
    Worker.objects.update(queues=[])
    assert cells(admin_client.get(LIST), "served") == ["all"]


@pytest.mark.parametrize(("silent", "uptime"), [(25, "1 h 30 min"), (3600, "30 min")])
def test_a_live_worker_is_up_until_now_and_a_dead_one_until_its_last_heartbeat(admin_client, silent, uptime):
    make_worker(silent, started_at=timezone.now() - timedelta(minutes=90.5))
    assert f">{uptime}" in cells(admin_client.get(LIST), "since")[0]


def test_the_page_shows_versions_memory_and_the_last_jobs(admin_client):
    worker = make_worker(python="3.13.1", release="3f2a91c", memory_mb=[180, 190, 240])
    ran, other = make_job(State.SUCCEEDED, worker_id=worker.pk, attempted_at=ago(MINUTE)), make_worker()
    make_job(State.SUCCEEDED, worker_id=other.pk), make_running(worker.pk)
    response = admin_client.get(page_of(worker))
    assert "3.13.1" in response.text
    assert "3f2a91c" in response.text
    assert [row["url"] for row in response.context["last_jobs"]] == [
        f"/admin/pgonly_django/job/{ran.pk}/change/"
    ]
    assert re.findall(r"<title>(.*?)</title>", response.text)[1:] == [
        "2 min before, 180 MB at last", "1 min before, 190 MB at last", "last, 240 MB at last",
    ]  # fmt: skip


@pytest.mark.parametrize("memory", [None, [], [0], ["x"], {"a": 1}])
def test_a_worker_that_does_not_tell_its_memory_has_no_chart(admin_client, memory):
    worker = make_worker()
    Worker.objects.update(memory_mb=memory)
    assert admin_client.get(page_of(worker)).context["memory"] is None


def test_who_may_not_see_jobs_sees_none_of_a_worker(client, person):
    worker = make_worker()
    make_job(State.SUCCEEDED, worker_id=worker.pk)
    person("view_worker")
    assert client.get(page_of(worker)).context["last_jobs"] is None


def test_a_dead_worker_whose_jobs_were_rescued_runs_none(admin_client):
    make_worker(600, running=1)
    response = admin_client.get(LIST)
    assert cells(response, "held") == ["0"]
    assert "pgonly-dead" in cells(response, "life")[0]


@pytest.mark.parametrize(
    ("heard_seconds_ago", "facts", "life"),
    [
        (20, {}, "live"),
        (40, {"running": 1}, "held"),
        (40, {}, "held"),
        (61, {"running": 1}, "dead"),
        (61, {}, "dead"),
        (5, {"stopped_at": timezone.now()}, "stopped"),
    ],
)
def test_a_worker_is_live_for_half_a_lease_and_dead_after_a_whole_one_with_jobs_or_without(
    admin_client, heard_seconds_ago, facts, life
):
    worker = make_worker(heard_seconds_ago, **facts)
    assert Worker.objects.live().filter(pk=worker.pk).exists() == (life == "live")
    assert f"pgonly-{life}" in cells(admin_client.get(LIST), "life")[0]


def test_a_worker_that_sleeps_lives_however_long_it_is_silent(admin_client):
    worker = make_worker(86_000, sleeping_since=timezone.now())
    assert list(Worker.objects.live()) == list(Worker.objects.asleep()) == [worker]
    assert worker.is_live(timezone.now())
    assert "pgonly-asleep" in cells(admin_client.get(LIST), "life")[0]
    Worker.objects.update(stopped_at=timezone.now())
    assert not Worker.objects.live().exists()


def test_live_follows_the_lease_setting(admin_client, settings):
    settings.PGONLY = {"LEASE_SECONDS": 10}
    make_worker(15, running=1)
    assert "pgonly-dead" in cells(admin_client.get(LIST), "life")[0]


def test_who_may_operate_jobs_may_not_stop_workers(client, person):
    worker = make_worker()
    person("view_worker", "operate_job")
    assert "stop_workers" not in client.get(LIST).text
    assert client.post(f"{LIST}{worker.pk}/operate/stop/").status_code == 403
    assert not Worker.objects.exclude(stop_requested_at=None).exists()


@pytest.mark.parametrize(("verb", "badge"), [("stop", "Stopping"), ("drain", "Draining")])
@pytest.mark.parametrize("place", ["list", "page"])
def test_a_person_stops_and_drains_a_worker(admin_client, admin_user, verb, badge, place):
    worker, other = make_worker(version="1"), make_worker(version="1", name="other")
    ended = make_worker(stopped_at=timezone.now())
    if place == "page":
        answer = admin_client.post(f"{LIST}{worker.pk}/operate/{verb}/", follow=True)
        assert answer.redirect_chain == [(page_of(worker), 302)]
    else:
        answer = act(admin_client, f"{verb}_workers", [worker, ended], LIST)
        assert f"{verb.title()} selected workers" in answer.text
    assert said(answer) == [f"{verb.title()}: 1 worker."]
    asked = Worker.objects.filter(**{f"{verb}_requested_at__isnull": False})
    assert list(asked) == [worker]
    assert badge in admin_client.get(page_of(worker)).text
    assert "Live" in admin_client.get(page_of(other)).text
    entry = LogEntry.objects.get()
    logged = admin_user, str(worker.pk), f"Asked to {verb}."
    assert (entry.user, entry.object_id, entry.change_message) == logged


@pytest.mark.parametrize(
    ("facts", "buttons"),
    [
        ({}, ["stop", "drain"]),
        ({"drain_requested_at": "2026-01-01T00:00Z"}, ["stop"]),
        ({"stop_requested_at": "2026-01-01T00:00Z"}, []),
        ({"stopped_at": "2026-01-01T00:00Z"}, []),
        ({"heartbeat_at": "2026-01-01T00:00Z"}, []),
    ],
)
def test_a_worker_has_the_buttons_that_it_would_obey(admin_client, facts, buttons):
    worker = make_worker(**{"version": "1", **facts})
    page = admin_client.get(page_of(worker)).text
    assert re.findall(r"pgonly-button-(\w+)", page) == buttons


def test_the_page_of_a_worker_shows_the_jobs_that_it_holds_as_far_as_its_reader_may_see_them(client, person):
    worker, other = make_worker(), make_worker()
    progress = {"done": 3, "total": 10, "message": "the patient's name"}
    job = make_job(State.RUNNING, worker_id=worker.pk, task="shop.pack", queue="ai", progress=progress)
    make_job(State.RUNNING, worker_id=other.pk, task="shop.ship")
    link, message = f"/admin/pgonly_django/job/{job.pk}/change/", "the patient&#x27;s name"
    person("view_worker", "view_job", "view_job_data")
    page = client.get(page_of(worker)).text
    assert [link in page, "3 / 10" in page, message in page, "ship" in page] == [True, True, True, False]
    person("view_worker")
    page = client.get(page_of(worker)).text
    assert ["pack" in page, "/admin/pgonly_django/job/" in page, message in page] == [True, False, False]
