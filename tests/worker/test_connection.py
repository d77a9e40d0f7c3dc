from __future__ import annotations

import contextlib
import select

import pytest
from django.db import connection, connections

from pgonly_django.database import notify
from pgonly_django.database.connect import connect
from pgonly_django.models.job import State
from pgonly_django.worker.connection import ALL, JobsListener
from tests import activity, jobs
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def line():
    with connect("default", application_name="pgonly tests") as opened:
        yield opened


@pytest.fixture
def listener(line):
    opened = JobsListener("default", listens=True)
    opened.open(line)
    opened.hear(line)
    return opened


def tell(payload):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [notify.CHANNEL, payload])


@contextlib.contextmanager
def cut_off():
    """The worker has lost its connection and gets no other one until this ends."""
    with activity.no_more_connections():
        cut()
        yield


def cut():
    assert activity.end("application_name LIKE 'pgonly worker%'") >= 1


def test_a_notify_is_heard_when_the_socket_is_readable(listener, line):
    assert listener.hear(line) == []
    tell("ready mail")
    assert select.select([line.pgconn.socket], [], [], 5)[0]
    assert listener.hear(line) == ["ready mail"]
    assert listener.hear(line) == []


def test_notifies_that_come_along_with_an_answer_are_heard(listener, line):
    tell("ready one")
    tell("due")
    line.execute("SELECT pg_sleep(0.2)")
    with line.pipeline():
        line.execute("SELECT 1")
    assert listener.hear(line) == ["ready one", "due"]


def test_who_shall_not_listen_knows_nothing_of_the_other_end(line):
    listener = JobsListener("default", listens=False)
    listener.open(line)
    tell("ready mail")
    line.execute("SELECT pg_sleep(0.1)")
    assert listener.hear(line) == list(ALL)
    assert not listener.reaches_postgres


@pytest.mark.slow
def test_where_no_notify_arrives_it_says_so_once(pooler, caplog):
    """A pooler in transaction mode gives LISTEN to another connection than the one that waits."""
    listener = JobsListener("default", listens=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connections.settings["default"], "HOST", "127.0.0.1")
        patch.setitem(connections.settings["default"], "PORT", str(pooler))
        for _ in range(2):
            with connect("default", application_name="pgonly tests") as line:
                listener.open(line)
    assert not listener.listens
    assert not listener.reaches_postgres
    assert caplog.text.count("LISTEN does not work here") == 1


@pytest.mark.slow
def test_the_self_test_leaves_nothing_behind_in_a_connection_of_a_pooler(pooler, monkeypatch):
    """The pooler hands that connection to others, whose prepared statements have the same names."""
    monkeypatch.setitem(connections.settings["default"], "HOST", "127.0.0.1")
    monkeypatch.setitem(connections.settings["default"], "PORT", str(pooler))
    for _ in range(2):
        with connect("default", application_name="pgonly tests") as line:
            JobsListener("default", listens=True).open(line)
            assert line.execute("SELECT name FROM pg_prepared_statements").fetchall() == []


def test_an_idle_worker_that_loses_its_connection_listens_again_at_once(background_worker):
    worker = background_worker(poll_seconds=60.0)
    wait_for(lambda: worker.plan.ordinary.is_drained)
    lost = worker.database.connection()
    cut()
    wait_for(lambda: worker.database._connection not in (lost, None), what="the new connection")
    assert jobs.add.enqueue(1).wait(10).return_value == 2
    assert jobs.add.enqueue(2).wait(10).return_value == 3


def test_a_cancel_while_the_connection_was_lost_is_heard(background_worker, marks, settings):
    settings.PGONLY = {"LEASE_SECONDS": 120}  # the next heartbeat is half a minute away
    background_worker(poll_seconds=60.0)
    result = jobs.hold_on.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    with cut_off():
        result.cancel()
    assert result.wait(10).job.state == State.CANCELLED


@pytest.mark.slow
def test_without_listen_a_cancel_is_looked_for(background_worker, marks, settings):
    settings.PGONLY = {"LEASE_SECONDS": 120}
    background_worker(listen=False, poll_seconds=0.1)
    result = jobs.hold_on.enqueue("k")
    wait_for(lambda: "k:started" in marks())
    result.cancel()
    assert result.wait(10).job.state == State.CANCELLED


def test_a_job_enqueued_while_the_connection_was_lost_is_found(background_worker):
    worker = background_worker(poll_seconds=60.0)
    wait_for(lambda: worker.plan.ordinary.is_drained)
    with cut_off():
        result = jobs.add.enqueue(1)
    assert result.wait(10).return_value == 2
