"""All figures at once: what cannot be read is missing, and takes nothing else away."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields

import pytest
from django.db import connection, transaction

from benchmarks.servers import free_port
from pgonly_django.models import Budget, Limiter, Queue, State
from pgonly_django.monitoring.stats import PARTS, Stats, stats
from tests.aliases import alias
from tests.queue.rows import HOUR, ago, make, make_worker
from tests.sql import sql, value
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db


@contextmanager
def undone():
    """What is done inside is rolled back, also where a test has no transaction."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def test_every_part_is_a_field_and_is_read():
    found = stats()
    assert set(PARTS) <= {each.name for each in fields(Stats)}
    assert found.missing == {}
    assert [name for name in PARTS if getattr(found, name) is None] == []
    assert found.is_up
    assert found.database == "default"
    assert 0 < found.seconds < 60


def test_it_sees_what_the_transaction_of_a_test_has_written():
    make(queue="ai", ready_at=ago(HOUR)), make_worker(queues=["mail"])
    Queue.objects.named("ai"), Limiter.objects.create(name="l"), Budget.objects.create(name="b", usd=1)
    found = stats()
    (queue,) = found.queues
    assert (queue.name, queue.waiting.number, found.states[State.READY].number) == ("ai", 1, 1)
    assert 3500 < queue.oldest_seconds < 3700
    assert (found.served.has("ai"), found.served.has("mail"), found.worker_totals.live) == (False, True, 1)
    assert [row.name for row in (*found.limiters, *found.budgets)] == ["l", "b"]


def test_only_the_parts_that_are_asked_for_are_read():
    found = stats(parts=["states"])
    assert found.states is not None
    assert (found.queues, found.missing) == (None, {})


def test_a_part_that_there_is_not_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no part 'queue'\. Known are: worker_totals, served, queues"):
        stats(parts=["queue"])


def test_without_any_table_all_parts_but_two_are_missing():
    with undone():
        for table in [
            "job",
            "batch",
            "worker",
            "queue",
            "job_stats",
            "schedule",
            "limiter",
            "budget",
            "session",
            "cache_usage",
        ]:
            sql(f"ALTER TABLE pgonly_{table} RENAME TO elsewhere_{table}")
        found = stats()
    # Who holds a snapshot is asked of the server; each cache says for itself that it has no numbers.
    assert set(PARTS) - set(found.missing) <= {"snapshots", "caches"}
    assert all(cache.problem for cache in found.caches)
    assert found.is_up


@contextmanager
def role(*rights):
    with undone():
        sql("CREATE ROLE pgonly_reader NOLOGIN")
        schema = value("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'pgonly_job'")
        sql(f"GRANT USAGE ON SCHEMA {schema} TO pgonly_reader")
        for right in rights:
            sql(f"GRANT {right} ON ALL TABLES IN SCHEMA {schema} TO pgonly_reader")
        sql("SET LOCAL ROLE pgonly_reader")
        yield


def test_a_role_that_may_only_read_reads_everything():
    with role("SELECT"):
        sql("SET LOCAL transaction_read_only = on")
        assert stats().missing == {}


def test_a_role_without_rights_is_told_so():
    with role():
        found = stats()
    assert found.is_up
    assert "permission denied" in found.missing["states"]


@pytest.mark.django_db(transaction=True)
def test_a_part_that_takes_too_long_is_stopped(other):
    with other.transaction():
        other.execute("LOCK TABLE pgonly_budget")
        found = stats(parts=["states", "budgets", "sessions"])
    assert found.missing == {"budgets": "It took longer than 1 s and was stopped."}
    assert found.sessions is not None


def test_nothing_begins_once_the_time_is_over():
    found = stats(seconds=0)
    assert found.is_up
    assert set(found.missing) == set(PARTS)
    assert set(found.missing.values()) == {"There was no time left for it."}


def test_a_database_that_is_away_is_not_up(any_database):
    with alias("gone", HOST="127.0.0.1", PORT=free_port()):
        found = stats("gone")
    assert not found.is_up
    assert set(found.missing) == set(PARTS)
    assert found.missing["states"].startswith("The database did not answer: ")


@pytest.mark.django_db(transaction=True)
def test_a_lost_connection_is_seen_and_the_next_reading_has_another(other):
    connection.ensure_connection()
    pid = connection.connection.info.backend_pid
    other.execute("SELECT pg_terminate_backend(%s)", [pid])
    wait_for(lambda: not other.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall())
    assert not stats().is_up
    connection.close_if_unusable_or_obsolete()
    assert stats().is_up


def test_an_old_transaction_is_told_of(other):
    with other.transaction():
        other.execute("SELECT pg_current_xact_id()")
        wait_for(lambda: stats(parts=["snapshots"]).snapshots)
        (snapshot,) = stats(parts=["snapshots"]).snapshots
    assert 1 <= snapshot.seconds < 60
