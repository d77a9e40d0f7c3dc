"""Which workers live, what they serve, and the jobs that they hold."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from pgonly_django.models import Worker
from pgonly_django.monitoring.workers import Served, served_queues, worker_totals, workers
from tests.queue.rows import HOUR, ago, make_running, make_worker

pytestmark = pytest.mark.django_db
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


def test_workers_that_live_and_those_that_are_silent_are_counted():
    make_worker(SECOND, threads=3), make_worker(MINUTE / 3, threads=4)
    make_worker(MINUTE), make_worker(HOUR, stopped_at=timezone.now())
    found = worker_totals("default")
    assert (found.live, found.silent, found.threads) == (2, 1, 7)
    assert found.newest_heartbeat_seconds == pytest.approx(1, abs=10)


def test_one_that_is_silent_for_an_hour_counts_while_it_holds_jobs():
    make_worker(2 * HOUR)
    assert worker_totals("default").silent == 0
    worker = make_worker(2 * HOUR)
    make_running(worker.pk), make_running(worker.pk)
    assert worker_totals("default").silent == 1


def test_without_a_worker_there_is_no_heartbeat():
    assert worker_totals("default") == (0, 0, 0, 0, None)


def test_only_workers_that_serve_one_of_the_queues_count():
    make_worker(queues=["mail"]), make_worker(queues=[])
    counts = [worker_totals("default", queues).live for queues in ([], ["mail"], ["ai"], ["ai", "mail"])]
    assert counts == [2, 2, 1, 2]


@pytest.mark.parametrize("max_age", [None, SECOND])
def test_a_worker_that_sleeps_lives(max_age):
    make_worker(HOUR, sleeping_since=ago(HOUR))
    assert worker_totals("default", max_age=max_age)[:3] == (1, 1, 0)


def test_a_greatest_age_may_be_given():
    make_worker(20 * SECOND)
    found = worker_totals("default", max_age=10 * SECOND)
    assert (found.live, found.silent) == (0, 1)
    make_worker(10 * MINUTE)
    assert worker_totals("default", max_age=HOUR).live == 2


def test_the_queues_that_live_workers_serve():
    make_worker(queues=["mail"]), make_worker(queues=["old"], silent_for=HOUR)
    make_worker(queues=["asleep"], silent_for=HOUR, sleeping_since=ago(HOUR))
    for asked in ("stop_requested_at", "drain_requested_at"):
        make_worker(queues=[asked], **{asked: ago(MINUTE)})
    assert served_queues("default") == Served(all=False, names=frozenset({"mail", "asleep"}))
    make_worker(queues=[])
    assert served_queues("default").all


def test_a_worker_has_the_jobs_that_run_in_its_name():
    busy, idle = make_worker(name="busy", running=1), make_worker(name="idle", running=1)
    job = make_running(busy.pk)
    found = {worker.row.name: worker for worker in workers("default")}
    assert found["busy"].jobs == [job]
    assert found["idle"].jobs == []  # whatever its row says: its jobs were rescued
    Worker.objects.filter(pk=idle.pk).update(stopped_at=timezone.now())
    assert [worker.row.name for worker in workers("default")] == ["busy"]


@pytest.mark.parametrize(("silent", "is_late"), [(20, False), (45, True)])
def test_a_worker_with_jobs_is_late_once_it_misses_a_heartbeat(silent, is_late):
    worker = make_worker(silent_for=timedelta(seconds=silent), running=1)
    make_running(worker.pk)
    assert [each.is_late for each in workers("default")] == [is_late]
