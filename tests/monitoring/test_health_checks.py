"""The checks, asked by the view of django-health-check that is installed: version 3 or 4."""

from __future__ import annotations

import inspect
import json
import socket
import time
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, connections
from django.test import RequestFactory

from benchmarks.servers import free_port
from pgonly_django.models import DurableCacheEntry, Queue
from tests import activity
from tests.aliases import alias
from tests.queue.rows import HOUR, ago, make, make_worker
from tests.waiting import beside, wait_for

pytest.importorskip("health_check")

from health_check.views import HealthCheckView

from pgonly_django.monitoring.health_checks import (
    CacheRoundTrip,
    NotifyArrives,
    QueueLatency,
    WorkersAlive,
)

pytestmark = pytest.mark.django_db(transaction=True)
CHECKS = "pgonly_django.monitoring.health_checks."


def ask(*checks):
    """The status of the answer, and what it says of each check."""
    given = [CHECKS + check.__name__ if isinstance(check, type) else check for check in checks]
    view = HealthCheckView.as_view(checks=given)
    request = RequestFactory().get("/health", HTTP_ACCEPT="application/json")
    answer = async_to_sync(view)(request) if inspect.iscoroutinefunction(view) else view(request)
    if inspect.isawaitable(answer):
        answer = async_to_sync(_awaited)(answer)
    return answer.status_code, json.loads(answer.content)


async def _awaited(answer):
    return await answer


def test_a_healthy_site_is_told_so_by_dotted_paths(settings):
    make_worker(), make()
    named = [CHECKS + name for name in ("WorkersAlive", "QueueLatency", "NotifyArrives")]
    status, found = ask(*named, (CHECKS + "CacheRoundTrip", {"alias": "answers"}))
    assert set(found.values()) == {"OK"}
    assert status == 200
    assert "CacheRoundTrip(alias='answers')" in found
    assert not DurableCacheEntry.objects.filter(key__contains="pgonly-health-").exists()


def test_a_silent_worker_is_named_and_does_not_count():
    make_worker(silent_for=timedelta(minutes=5)), make_worker(queues=["mail"])
    assert ask(WorkersAlive)[0] == 200
    assert ask((WorkersAlive, {"queues": ("mail",), "min_workers": 1}))[0] == 200
    _, (said,) = _said(ask((WorkersAlive, {"queues": ("ai",)})))
    assert "0 live workers, 1 silent" in said


def test_a_job_that_waits_for_too_long_is_told_of():
    make(queue="ai", ready_at=ago(HOUR))
    status, (said,) = _said(ask((QueueLatency, {"max_seconds": 60})))
    assert status == 500
    assert "A job of the queue ai has waited for 36" in said
    assert ask((QueueLatency, {"max_seconds": 7200}))[0] == 200
    assert ask((QueueLatency, {"max_seconds": 60, "queues": ("mail",)}))[0] == 200
    Queue.objects.named("ai").pause()
    assert ask((QueueLatency, {"max_seconds": 60}))[0] == 200


def test_a_cache_that_stores_nothing_is_not_healthy(settings):
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    status, (said,) = _said(ask(CacheRoundTrip))
    assert status == 500
    assert said.endswith("The cache default does not return what was set")
    assert "'none'" in _said(ask((CacheRoundTrip, {"alias": "none"})))[1][0]


def test_a_cache_on_a_dead_database_is_not_healthy(settings, any_database):
    ours = settings.CACHES["answers"]
    with alias("gone", HOST="127.0.0.1", PORT=free_port()):
        settings.CACHES = {"far": {**ours, "OPTIONS": {"DATABASE": "gone"}}}
        status, (said,) = _said(ask((CacheRoundTrip, {"alias": "far"})))
    assert status == 500
    assert said.endswith("The cache far does not answer; the log says why")


def test_a_dead_database_is_told_of_without_its_address(any_database, caplog):
    with alias("gone", HOST="127.0.0.1", PORT=free_port(), PASSWORD="hunter2"):
        for check in (WorkersAlive, QueueLatency, NotifyArrives):
            status, (said,) = _said(ask((check, {"database": "gone"})))
            assert status == 500
            assert said.endswith("PostgreSQL does not answer; the log says why")
            assert "127.0.0.1" not in said
    assert "hunter2" not in caplog.text
    assert "127.0.0.1" in caplog.text


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up(any_database):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        alias("silent", HOST="127.0.0.1", PORT=silent.getsockname()[1]),
    ):
        began = time.monotonic()
        assert ask((WorkersAlive, {"database": "silent"}))[0] == 500
        assert time.monotonic() - began < 8


def test_an_alias_that_there_is_not_is_named():
    _, (said,) = _said(ask((WorkersAlive, {"database": "jobs"})))
    assert "'jobs' doesn't exist" in said


def test_a_check_leaves_the_connections_of_its_thread_as_they_were(other):
    def count():
        return len(activity.pids(on=other))

    connection.ensure_connection()
    wrapper, pid = connections["default"], connection.connection.info.backend_pid
    before = count()
    check = WorkersAlive(min_workers=0)
    check.run()
    NotifyArrives().run()
    assert connections["default"] is wrapper
    assert wrapper.connection.info.backend_pid == pid
    with beside(lambda: check.run() or connections.all(initialized_only=True)) as seen:
        pass
    assert seen == [[]]
    wait_for(lambda: count() <= before)


def test_a_notify_that_a_pooler_loses_is_told_of(pooler, any_database):
    """PgBouncer in transaction mode."""
    with alias("pooled", HOST="127.0.0.1", PORT=pooler):
        # The connection to the server that listened is another one's by the time of the NOTIFY, or gets it alone.
        status, (said,) = _said(ask((NotifyArrives, {"database": "pooled", "max_seconds": 0.5})))
    assert status == 500
    assert 'No NOTIFY arrived within 0.5 s: set PGONLY["LISTEN_DATABASE"] past the pooler' in said


def _said(answer):
    status, found = answer
    return status, list(found.values())
