from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Worker
from tests.admin.jobs.test_cells import cells
from tests.queue.rows import make_running

pytestmark = pytest.mark.django_db
LIST = "/admin/pgonly_django/worker/"


def make_worker(heard_seconds_ago=1.0, **fields):
    heartbeat = timezone.now() - timedelta(seconds=heard_seconds_ago)
    defaults = {"name": "web-1", "hostname": "host", "pid": 4001, "threads": 16, "heartbeat_at": heartbeat}
    return Worker.objects.create(**(defaults | fields))


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


def test_a_dead_worker_whose_jobs_were_rescued_runs_none(admin_client):
    make_worker(600, running=1)
    response = admin_client.get(LIST)
    assert cells(response, "held") == ["0"]
    assert "pgonly-dead" in cells(response, "life")[0]


def test_a_worker_without_queues_serves_all(admin_client):
    make_worker(queues=[])
    assert cells(admin_client.get(LIST), "served") == ["all"]


@pytest.mark.parametrize(
    ("heard_seconds_ago", "running", "stopped", "life"),
    [
        (5, 1, False, "live"),
        (61, 1, False, "dead"),
        (61, 0, False, "live"),
        (361, 0, False, "dead"),
        (5, 1, True, "stopped"),
    ],
)
def test_a_worker_with_jobs_is_live_within_its_lease_and_one_without_for_five_minutes_more(
    admin_client, heard_seconds_ago, running, stopped, life
):
    stopped_at = timezone.now() if stopped else None
    worker = make_worker(heard_seconds_ago, running=running, stopped_at=stopped_at)
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


def test_the_age_of_the_heartbeat_is_shown(admin_client):
    make_worker(125.5)
    assert "2 min 5 s ago" in cells(admin_client.get(LIST), "heartbeat")[0]


def test_nothing_can_be_changed(admin_client):
    worker = make_worker()
    page = admin_client.get(LIST).content.decode()
    assert 'name="action"' not in page
    assert admin_client.get(f"{LIST}add/").status_code == 403
    assert admin_client.post(f"{LIST}{worker.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"{LIST}{worker.pk}/change/", {"name": "x"}).status_code == 403


@pytest.mark.parametrize("count", [1, 30])
def test_the_number_of_queries_does_not_grow_with_the_workers(
    admin_client, django_assert_max_num_queries, count
):
    for _ in range(count):
        make_worker()
    with django_assert_max_num_queries(4):
        admin_client.get(LIST)
