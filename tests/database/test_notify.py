from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from django.db import connections, transaction

from pgonly_django import enqueue_many
from pgonly_django.database import notify
from pgonly_django.models import Job, Worker
from pgonly_django.models.job import State
from tests.aliases import alias
from tests.jobs import add
from tests.queue.rows import HOUR, ago, make, make_running, make_worker
from tests.sql import value

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def nothing_sent_lately():
    notify._last_sent.clear(), notify._last_asked.clear()


@pytest.fixture
def listening(server):
    """A connection that listens as a worker does."""
    server.execute(f"LISTEN {notify.CHANNEL}")
    return server


def heard(connection) -> list[str]:
    """What arrived by the time of a round trip."""
    connection.execute("SELECT 1")
    return [notify.payload for notify in connection.notifies(timeout=0)]


def test_a_committed_enqueue_wakes_the_workers_of_its_queue_once(listening):
    with transaction.atomic():
        add.using(queue_name="mail").enqueue(1)
        assert heard(listening) == []
    assert heard(listening) == ["ready mail"]


def test_a_rolled_back_enqueue_wakes_no_worker(listening):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add.enqueue(1)
        raise ZeroDivisionError
    assert heard(listening) == []


@pytest.mark.parametrize(
    ("writes", "payload"),
    [
        (lambda: add.enqueue(1), "ready default"),
        (lambda: Job.objects.filter(state=State.FAILED).retry(), "ready *"),
        (lambda: Job.objects.running().cancel(), "cancel *"),
    ],
)
def test_the_notify_is_no_part_of_the_business_transaction(listening, writes, payload):
    make(state=State.FAILED), make_running()
    with transaction.atomic():
        assert writes()
        business = value("SELECT pg_current_xact_id()::text")
    # A NOTIFY takes a transaction id, and nothing else here does after the business.
    following = listening.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()[0]
    assert heard(listening) == [payload]
    assert int(following) > int(business) + 1


def test_many_jobs_wake_each_queue_once(listening):
    mail = add.using(queue_name="mail")
    enqueue_many([(add, [1]), (mail, [2]), (add, [3]), (mail, [4])])
    assert sorted(heard(listening)) == ["ready default", "ready mail"]


def test_jobs_with_a_key_wake_those_who_claim_limited_jobs(listening):
    keyed = add.using(concurrency_key="{a}", queue_name="narrow")
    enqueue_many([(keyed, [1]), (add, [2])])
    assert sorted(heard(listening)) == ["limited narrow", "ready default"]


def test_a_job_for_later_tells_of_a_due_time(listening):
    add.using(run_after=ago(-HOUR)).enqueue(1)
    assert heard(listening) == [notify.DUE]


def test_a_job_whose_time_is_past_already_wakes_at_once(listening):
    """A promotion finds nothing scheduled."""
    add.using(run_after=ago(HOUR)).enqueue(1)
    assert heard(listening) == ["ready default"]


def test_wakes_in_close_succession_are_one(listening, monkeypatch):
    monkeypatch.setattr(notify, "COALESCE_SECONDS", 3600.0)
    monkeypatch.setattr(notify, "DENSE_SECONDS", 3600.0)
    for _ in range(5):
        add.enqueue(1)
    add.using(queue_name="mail").enqueue(1)
    assert heard(listening) == ["ready default", "ready mail"]


def test_the_first_wake_goes_out_on_a_machine_that_has_just_started(listening, monkeypatch):
    with monkeypatch.context() as machine:
        machine.setattr(notify, "time", SimpleNamespace(monotonic=lambda: -1.0))
        add.enqueue(1)
    assert heard(listening) == ["ready default"]


@pytest.mark.parametrize("limit", ["COALESCE_SECONDS", "DENSE_SECONDS"])
def test_a_wake_after_the_pause_or_apart_from_the_last_goes_out_again(listening, monkeypatch, limit):
    for name in ("COALESCE_SECONDS", "DENSE_SECONDS"):
        monkeypatch.setattr(notify, name, 0.0 if name == limit else 3600.0)
    for _ in range(3):
        add.enqueue(1)
    assert heard(listening) == ["ready default"] * 3


def test_every_wish_to_cancel_or_to_stop_a_worker_is_told(listening, monkeypatch):
    monkeypatch.setattr(notify, "COALESCE_SECONDS", 3600.0)
    monkeypatch.setattr(notify, "DENSE_SECONDS", 3600.0)
    for job in (make_running(), make_running()):
        Job.objects.filter(pk=job.pk).cancel()
    worker = make_worker()
    assert (Worker.objects.drain(), Worker.objects.stop()) == (1, 1)
    assert heard(listening) == ["cancel *"] * 2 + [f"worker {worker.pk}"] * 2


class ReadsFromReplica:
    def db_for_read(self, model, **hints):
        return "replica"

    def db_for_write(self, model, **hints):
        return "default"


def test_with_a_replica_a_verb_wakes_from_the_database_it_wrote_to(listening, settings):
    make(state=State.FAILED), make_running()
    with alias("replica", PORT="1", HOST="127.0.0.1"):
        settings.DATABASE_ROUTERS = [ReadsFromReplica()]
        with transaction.atomic():
            assert (Job.objects.filter(state=State.FAILED).retry(), Job.objects.running().cancel()) == (1, 1)
            assert heard(listening) == []
        settings.DATABASE_ROUTERS = []
    assert heard(listening) == ["ready *", "cancel *"]


def test_a_verb_that_moves_nothing_wakes_no_worker(listening):
    Job.objects.retry(), Job.objects.cancel()
    assert heard(listening) == []


def test_a_lost_connection_costs_a_warning_and_no_more(caplog):
    connections["default"].ensure_connection()
    connections["default"].connection.close()
    try:
        with caplog.at_level(logging.WARNING):
            notify.send_coalesced("default", "ready default")
    finally:
        connections["default"].close()
    assert "Could not wake the workers" in caplog.text
