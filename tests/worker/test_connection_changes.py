"""With persistent connections and with pools: a job leaves its slot's connection as it found it."""

from __future__ import annotations

import pytest
from django.db import connections

from pgonly_django.models import State
from pgonly_django.worker.django_connections import outlasts_its_transaction
from tests.jobs import connection_changes as changes

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


def test_composed_sql_is_read_too(background_worker, persistent):
    before, after = looks_around(background_worker, (changes.execute_composed, (), {}))
    assert after[0] != before[0]
    assert after[1:] == before[1:]
