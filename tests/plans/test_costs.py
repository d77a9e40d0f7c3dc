"""No claim looks expensive enough for PostgreSQL to compile it, however many jobs are ready."""

from __future__ import annotations

import psycopg
import pytest

from pgonly_django.queue.claim import BAND_LIMIT
from pgonly_django.worker.claim_plan import AHEAD_LIMIT
from pgonly_django.worker.options import THREADS_LIMIT
from tests.plans.statements import STATEMENTS, asked
from tests.plans.table import filled, jobs, rows_before_indexes
from tests.plans.test_plans import FORGET_STATISTICS, numbered

# A sixth of jit_above_cost. What grows with the jobs was above it at 200,000 of them.
COST_AT_MOST = 15_000
READY = jobs("200000", "ready", queue="'default'", priority="0")
CLAIMS = [name for name in STATEMENTS if name.startswith("claim, ")]

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker):
    """A connection to a table with 200,000 ready jobs in one band."""

    def fill(cursor):
        with rows_before_indexes(cursor, "pgonly_job"):
            cursor.execute(READY, {})

    with filled(django_db_blocker, ["pgonly_job"], fill) as server:
        yield server


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("statistics", ["ANALYZE pgonly_job", FORGET_STATISTICS], ids=["warm", "cold"])
def test_the_estimate_does_not_grow_with_the_ready_jobs(server, statistics, name, kind):
    server.execute(statistics)
    positional, values = numbered(*asked(name, []))
    with server.transaction(force_rollback=True), psycopg.ClientCursor(server) as cursor:
        cursor.execute(f"SET LOCAL plan_cache_mode = {kind}")
        cursor.execute(f"PREPARE claim AS {positional}")
        cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE claim ({', '.join(['%s'] * len(values))})", values)
        (((plan,),),) = cursor.fetchall()
        cursor.execute("DEALLOCATE claim")
    assert plan["Plan"]["Total Cost"] < COST_AT_MOST


def test_no_worker_has_room_for_more_than_a_claim_takes():
    assert THREADS_LIMIT + AHEAD_LIMIT <= BAND_LIMIT
