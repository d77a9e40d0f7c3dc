"""With persistent connections and with pools: a job leaves its slot's connection as it found it."""

from __future__ import annotations

import threading

import pytest
from django.db import connection, connections
from django.db.backends.postgresql.base import DatabaseWrapper

from pgonly_django.compat import TaskResultStatus, uuid7
from pgonly_django.database.on_django import PREPARE_THRESHOLD, all_rows, first_row
from pgonly_django.database.statement import Statement
from pgonly_django.models import State
from pgonly_django.worker.django_connections import (
    ChangeWatch,
    connections_of_worker,
    outlasts_its_transaction,
)
from tests import activity, jobs
from tests.jobs import connection_changes as changes
from tests.jobs import transactions
from tests.waiting import beside, wait_for

CHANGES = [
    "SET ROLE pg_monitor",
    "SET search_path = pg_catalog",
    "set statement_timeout = '7s'",
    "SELECT set_config('statement_timeout', '7s', false)",
    "SELECT pg_advisory_lock(7)",
    "SELECT pg_try_advisory_lock_shared(7)",
    "CREATE TEMPORARY TABLE scratch (id int)",
    "SELECT 1 AS id INTO TEMP scratch",
    "DO $$ BEGIN PERFORM set_config('search_path', 'pg_catalog', false); END $$",
]
NO_CHANGES = [
    "SELECT 1",
    "UPDATE tests_mark SET key = 'SET ROLE' WHERE false",
    "SET LOCAL statement_timeout = '7s'",
    "SET CONSTRAINTS ALL IMMEDIATE",
    "SELECT set_config('statement_timeout', '7s', true)",
    "SELECT pg_advisory_xact_lock(7)",
    "SAVEPOINT one",
]


@pytest.fixture
def persistent(transactional_db, monkeypatch):
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)


def looks_around(background_worker, *tasks):
    """What one thread's connection looks like before and after. One job at a time: those that are claimed together may
    begin in any order."""
    background_worker(threads=1)
    looks = []
    for task, arguments, options in [(changes.look, (), {}), *tasks, (changes.look, (), {})]:
        result = task.enqueue(*arguments, **options).wait(30)
        assert result.job.state == State.SUCCEEDED
        looks.append(result.job.result)
    return looks[0], looks[-1]


@pytest.mark.sample(2)
@pytest.mark.parametrize("statement", CHANGES)
def test_what_a_job_changes_of_its_connection_does_not_reach_the_next(
    background_worker, persistent, statement
):
    before, after = looks_around(background_worker, (changes.execute, (statement,), {}))
    assert after[0] != before[0]
    assert after[1:] == before[1:]


@pytest.mark.sample(2)
@pytest.mark.parametrize("statement", NO_CHANGES)
def test_a_connection_that_was_not_changed_is_kept(background_worker, persistent, statement):
    before, after = looks_around(background_worker, (changes.execute, (statement,), {"in_transaction": True}))
    assert after == before


@pytest.mark.parametrize("task", [changes.execute, changes.execute_async])
@pytest.mark.parametrize("statement", ["SET ROLE pg_monitor", "SELECT pg_advisory_lock(7)"])
def test_what_a_job_changes_of_a_pooled_connection_does_not_reach_the_next(
    pooled, background_worker, task, statement
):
    before, after = looks_around(background_worker, (task, (statement,), {}))
    assert after[1:] == before[1:]


@pytest.mark.parametrize("statement", CHANGES)
def test_a_statement_that_outlasts_its_transaction_is_told_from_others(statement):
    assert outlasts_its_transaction(statement)
    assert outlasts_its_transaction(f"SELECT 1; {statement}")
    assert outlasts_its_transaction(f"/* of a job */ {statement}")


@pytest.mark.parametrize("statement", NO_CHANGES)
def test_a_statement_that_ends_with_its_transaction_is_told_from_others(statement):
    assert not outlasts_its_transaction(statement)


def test_our_own_statements_are_prepared_though_a_connection_is_watched(transactional_db):
    connection.close()
    statement = Statement("SELECT %(a)s::text")
    prepared = "SELECT count(*) FROM pg_prepared_statements"
    with connection.execute_wrapper(ChangeWatch()):
        for number in range(2 * PREPARE_THRESHOLD):
            assert first_row("default", statement, {"a": number}) == (str(number),)
        assert all_rows("default", prepared) == [(1,)]


def test_composed_sql_is_read_too(background_worker, persistent):
    before, after = looks_around(background_worker, (changes.execute_composed, (), {}))
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_jobs_that_leave_transactions_open_use_up_no_place_of_djangos_pool(pooled, work):
    for _ in range(5):
        transactions.leave_transaction_open.enqueue("lost")
    good = jobs.mark_once.enqueue("kept")
    worker = work(threads=1)
    assert good.wait(1).status == TaskResultStatus.SUCCESSFUL
    assert worker.slots.stuck == 0


def test_a_transaction_left_open_is_rolled_back_and_warned_about(work, marks, caplog):
    transactions.leave_transaction_open.enqueue("lost")
    jobs.mark_once.enqueue("kept")
    work(threads=1)
    assert marks() == ["kept"]
    assert "tests.jobs.transactions.leave_transaction_open left a transaction open" in caplog.text


def test_a_job_whose_rows_were_lost_with_its_transaction_has_not_succeeded(work, marks):
    read = transactions.read_in_an_open_transaction.enqueue()
    lost = transactions.leave_transaction_open.using(max_attempts=1).enqueue("lost")
    alone = transactions.leave_transaction_open_async.using(max_attempts=1).enqueue("lost")
    work(threads=1)
    assert marks() == []
    for result in (lost, alone):
        assert (result.job.state, result.job.attempt) == (State.FAILED, 1)
        assert "its transaction on 'default' open" in result.job.errors[-1]["message"]
    assert read.job.state == State.SUCCEEDED


def test_a_broken_connection_is_closed_and_warned_about(work, marks, caplog):
    transactions.break_connection.enqueue()
    result = jobs.mark_once.enqueue("after")
    work(threads=1)
    assert "tests.jobs.transactions.break_connection left a broken connection" in caplog.text
    assert result.wait(1).is_finished
    assert marks() == ["after"]


def test_a_connection_that_django_fails_to_close_is_closed(work, marks, monkeypatch, caplog):
    """Django forgets it then. So it is where the settings of its pool were changed since it was opened."""
    opened, close = [], DatabaseWrapper._close

    def fail(self):
        if "slot" not in threading.current_thread().name:
            return close(self)
        opened.append(self.connection)
        raise AttributeError("_pool")

    monkeypatch.setattr(DatabaseWrapper, "_close", fail)
    jobs.mark_once.enqueue("once")
    work(threads=1)
    assert marks() == ["once"]
    assert "Could not clean up after tests.jobs.mark_once" in caplog.text
    assert [each.closed for each in opened] == [True]


def of_a_new_connection(read):
    """What `read` says of a connection that another thread opens."""

    def look():
        connection.ensure_connection()
        return read(connection.connection)

    with beside(look) as said:
        pass
    return said[0]


def name_of_a_new_connection():
    return of_a_new_connection(lambda raw: raw.execute("SHOW application_name").fetchone()[0])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "pgonly jobs {}"),
        ("mysite", "mysite {}"),
        ("x" * 60, "x" * 26 + " {}"),
        ("Müllabfuhr", "M?llabfuhr {}"),
        ("中" * 20, "?" * 20 + " {}"),
    ],
)
def test_the_connections_of_jobs_bear_the_worker_s_id_behind_the_project_s_name(
    transactional_db, monkeypatch, given, name
):
    settings = connections.settings["default"]
    if given:
        monkeypatch.setitem(settings, "OPTIONS", {**settings["OPTIONS"], "application_name": given})
    before, worker_id = settings["OPTIONS"], uuid7()
    with connections_of_worker(worker_id):
        assert name_of_a_new_connection() == name.format(worker_id)
    assert settings["OPTIONS"] is before


def test_a_pool_is_made_again_with_the_new_name(transactional_db):
    settings = connections.settings["default"]
    pool = {"min_size": 1, "max_size": 2, "timeout": 5}
    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings, "OPTIONS", {**settings["OPTIONS"], "pool": pool})
        assert name_of_a_new_connection() == ""
        worker_id = uuid7()
        with connections_of_worker(worker_id):
            assert name_of_a_new_connection() == f"pgonly jobs {worker_id}"
        connection.close()
        connection.close_pool()


def test_django_s_connections_of_a_worker_notice_a_dead_server(transactional_db, monkeypatch):
    before = {**connection.settings_dict["OPTIONS"], "keepalives_count": 7}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", before)
    with connections_of_worker(uuid7()):
        found = of_a_new_connection(lambda raw: raw.info.get_parameters())
    assert (found["tcp_user_timeout"], found["keepalives_count"]) == ("30000", "7")
    assert connections.settings["default"]["OPTIONS"] is before


def test_a_connection_lost_below_asyncio_run_harms_no_later_job(work, marks):
    lost, later = transactions.query_below_asyncio_run.enqueue("lost", cuts=True), []
    work(threads=1)
    later = [transactions.query_below_asyncio_run.enqueue(str(i)) for i in range(3)]
    work(threads=1)
    assert {result.job.state for result in (lost, *later)} == {State.SUCCEEDED}
    assert marks() == ["lost", "0", "1", "2"]


def test_what_a_sync_job_did_below_asyncio_run_leaves_no_connection(worked, marks):
    before = len(activity.pids())
    worked(transactions.query_below_asyncio_run, "k")
    assert marks() == ["k"]
    wait_for(lambda: len(activity.pids()) <= before, what="its end")
