"""Rows that somebody else keeps locked: a view that selects running jobs for update, a frozen process."""

from __future__ import annotations

import signal
import threading
from datetime import timedelta

import psycopg
import pytest
from django.db import connections

from pgonly_django.compat import uuid7
from pgonly_django.database.connect import connect
from pgonly_django.models import Job, State, Worker
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import Claim, Claimer
from pgonly_django.queue.finish import Finish
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.exchange import Exchanger
from tests import activity, jobs
from tests.jobs import transactions
from tests.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.slow]
LOCK = "SELECT FROM pgonly_job WHERE id = ANY (%s) FOR UPDATE"
# Whether a job has done what it does in its transaction, and stays there. To ask for its lock would take it, and a
# heartbeat holds the row locked for a moment too.
STAYS = """
application_name ~ '^pgonly jobs' AND state = 'idle in transaction' AND query ~ '^SELECT count'
AND backend_xid IS NOT NULL
"""


@pytest.fixture
def view(transactional_db):
    """The connection of a view that takes its time."""
    with connect("default", application_name="a view") as connection:
        yield connection


def test_a_view_that_locks_running_jobs_delays_no_others_and_no_stop(workers, marks, view):
    worker = workers.start("--threads", "12", "--grace-seconds", "1")
    held = [jobs.sleep_in_slices.enqueue(f"k{i}", 1.5) for i in range(10)]
    wait_for(lambda: Job.objects.running().count() == 10)
    with view.transaction():
        view.execute(LOCK, [[result.id for result in held]])
        wait_for(lambda: sum("cleaned up" in mark for mark in marks()) == 10, what="their ends")
        for i in range(20):
            assert jobs.add.enqueue(i).wait(5).return_value == i + 1
    wait_for(
        lambda: {result.job.state for result in held} == {State.SUCCEEDED}, what="their ends to be written"
    )
    held = [jobs.sleep_in_slices.enqueue(f"l{i}", 1.5) for i in range(10)]
    wait_for(lambda: Job.objects.running().count() == 10)
    with view.transaction():
        view.execute(LOCK, [[result.id for result in held]])
        wait_for(lambda: sum("cleaned up" in mark for mark in marks()) == 20, what="their ends")
        worker.send(signal.SIGTERM)
        assert worker.wait(6) == 0
        assert {result.job.state for result in held} == {State.RUNNING}
    assert "Leaving without having given back 10 job(s), since their rows are locked" in worker.output
    assert "away" not in worker.output
    workers.start("--threads", "12")
    wait_for(lambda: {result.job.state for result in held} == {State.SUCCEEDED}, what="all to run again")
    assert {result.job.crashes for result in held} == {0}


def test_a_job_that_is_frozen_inside_its_transaction_runs_elsewhere(workers, marks, view):
    frozen = workers.start("--threads", "1")
    result = transactions.pay_inside_a_transaction.enqueue("k")
    wait_for(lambda: len(activity.pids(STAYS, view)) == 1, what="its step")
    frozen.send(signal.SIGSTOP)
    second = workers.start("--threads", "1")
    assert result.wait(20).job.state == State.SUCCEEDED
    assert marks().count("paid k") == 1  # the first payment was rolled back with its transaction
    worker_id = Worker.objects.get(name=frozen.name).id
    assert f"Ended the transaction that the dead worker {worker_id} had open" in second.output
    frozen.send(signal.SIGCONT)
    wait_for(lambda: "belongs to another worker now" in frozen.output)
    assert result.job.lease_epoch == 2


def test_a_worker_whose_own_row_is_locked_longer_than_a_lease_is_not_dead(workers, marks, view):
    first = workers.start("--threads", "1")
    result = jobs.sleep_in_slices.enqueue("k", 8.0)
    wait_for(lambda: "k:started" in marks())
    with view.transaction():
        view.execute("SELECT FROM pgonly_worker WHERE name = %s FOR UPDATE", [first.name])
        workers.start("--threads", "1")
        assert result.wait(20).job.state == State.SUCCEEDED
    assert (result.job.lease_epoch, marks().count("k:started")) == (1, 1)


@pytest.fixture
def own_exchanger(transactional_db, own_server):
    """A worker's connection to a server of the test's own."""
    settings = connections.settings["default"]
    with pytest.MonkeyPatch.context() as patch, psycopg.connect(own_server.url()) as there:
        info = there.info
        patch.setitem(settings, "HOST", info.host)
        patch.setitem(settings, "PORT", str(info.port))
        patch.setitem(settings, "NAME", info.dbname)
        patch.setitem(settings, "USER", info.user)
        database = WorkerConnection("default", uuid7(), "tests")
        exchanger = Exchanger(database, Claimer(uuid7(), timedelta(seconds=60)))
        assert database.connection() is not None
        yield exchanger
        database.close()


def test_who_keeps_notifies_waiting_holds_up_no_end(own_exchanger, own_server):
    """All commits with a NOTIFY queue for one lock, which one that waits for a standby keeps."""
    finish = Finish(str(uuid7()), 1, Outcome.RETRIED, State.SCHEDULED, delay_seconds=60.0)
    with psycopg.connect(own_server.url(), autocommit=True) as server:
        server.execute("ALTER SYSTEM SET synchronous_commit = 'local'")
        server.execute("ALTER SYSTEM SET synchronous_standby_names = 'no_such_standby'")
        server.execute("SELECT pg_reload_conf()")
        is_over = threading.Event()
        waiting = threading.Thread(target=notify_until_one_has_waited, args=[own_server.url(), is_over])
        waiting.start()
        wait_for(lambda: server.execute(WAITS_FOR_STANDBY).fetchone() == (1,))
        answer = own_exchanger.exchange(
            [finish], [], Claim(free_slots=1, prefetch_limits={}, take_suspect=True)
        )
        is_over.set()
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")
        waiting.join(10)
    assert (answer.was_refused, answer.claim is None, answer.lost) == (False, False, [finish])


WAITS_FOR_STANDBY = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


def notify_until_one_has_waited(url, is_over):
    """A commit does not wait before PostgreSQL's checkpointer has read the setting, which may take a while."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = 'on'")
        connection.execute("CREATE TABLE written ()")
        while not is_over.is_set():
            with connection.transaction():
                connection.execute("INSERT INTO written DEFAULT VALUES")
                connection.execute("SELECT pg_notify('of a project', '')")
