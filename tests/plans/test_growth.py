"""What was prepared while a table was small does not read all of it once it has grown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.db import connection

from pgonly_django.cache import PostgresCache
from pgonly_django.compat import uuid7
from pgonly_django.models.job import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import Claim
from pgonly_django.queue.finish import Finish
from pgonly_django.worker.connection import WorkerConnection
from pgonly_django.worker.exchange import Exchanger
from tests.jobs import add
from tests.queue.rows import claimer
from tests.waiting import PATIENT, wait_for

ROWS = 20
READERS = """
SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'growth' AND datname = current_database()
"""
CALLS = 12  # the server decides after five whether a plan is to be kept

pytestmark = pytest.mark.django_db(transaction=True)


def full_reads(table):
    """How often the whole of `table` was read, by connections that are closed by now."""
    wait_for(lambda: one(READERS) == 0)
    if connection.pg_version >= 150000:
        # What this connection read earlier is told now, not in between.
        one("SELECT pg_stat_force_next_flush()")
    return one("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = %s", table)


def one(query, *parameters):
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchone()[0]


def small_and_known(table):
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {table}")


def make_exchanger():
    return Exchanger(WorkerConnection("default", uuid7(), "growth"), claimer())


def test_claims_and_finishes():
    for number in range(ROWS):
        add.enqueue(number)
    small_and_known("pgonly_job")
    before = full_reads("pgonly_job")
    exchanger = make_exchanger()
    finishes: list[Finish] = []
    for _ in range(CALLS):
        claim = Claim(1, {}, take_suspect=True, from_head=exchanger.claimer.is_head_due)
        answer = exchanger.exchange(finishes, [], claim)
        finishes = [
            Finish(job.id, job.lease_epoch, Outcome.SUCCEEDED, State.SUCCEEDED) for job in answer.jobs
        ]
        assert len(finishes) == 1
    exchanger.database.close()
    assert full_reads("pgonly_job") == before


def test_nothing_of_a_worker_is_compiled():
    exchanger = make_exchanger()
    own = exchanger.database.connection()
    assert own is not None
    assert own.execute("SHOW jit").fetchone() == ("off",)
    exchanger.database.close()


def test_calls_of_the_cache(monkeypatch):
    cache = PostgresCache("growth", {"OPTIONS": PATIENT})
    monkeypatch.setattr(cache.store.pool, "user", replace(cache.store.pool.user, name="cache, growth"))
    cache.store.pool.close_idle()
    cache.set_many({f"key {number}": number for number in range(ROWS)})
    cache.store.pool.close_idle()
    small_and_known("pgonly_cache")
    before = full_reads("pgonly_cache")
    for number in range(CALLS):
        key = f"key {number}"
        assert cache.get(key) == number
        assert cache.incr(key) == number + 1
        assert cache.touch(key)
        assert cache.get_many([key]) == {key: number + 1}
        assert cache.delete(key)
    cache.store.pool.close_idle()
    assert full_reads("pgonly_cache") == before
