"""What a worker writes to the WAL for a job. The columns' order and the storage settings in 0001_initial decide."""

from __future__ import annotations

from statistics import median

import psycopg
import pytest

from pgonly_django.models import State
from pgonly_django.outcomes import Outcome
from pgonly_django.queue.claim import Claim
from pgonly_django.queue.finish import Finish, finish_statements
from tests.jobs import add
from tests.queue.rows import claimer

# A lock of 54 bytes, the change of the row, and 72 and 64 bytes in two indexes. Of a row whose changed columns do not
# stand together it is 50 and 90 bytes more.
CLAIM_AT_MOST, FINISH_AT_MOST = 340, 260
JOBS = 9

pytestmark = pytest.mark.django_db(transaction=True)


def bytes_written(server, sql, parameters):
    """None where the first change of a page after a checkpoint wrote all of it."""
    with psycopg.ClientCursor(server) as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, WAL, FORMAT JSON) {sql}", parameters)
        (((answer,),),) = cursor.fetchall()
    return None if answer["Plan"].get("WAL FPI") else answer["Plan"]["WAL Bytes"]


def test_a_claim_and_a_finish_log_only_what_they_change(server):
    by, claims, finishes = claimer(), [], []
    for number in range(JOBS):
        job = add.enqueue(number, number)
        statement, parameters = by.statement(Claim(1, {}, take_suspect=False))
        claims.append(bytes_written(server, statement.sql, parameters))
        finish = Finish(job.id, 1, Outcome.SUCCEEDED, State.SUCCEEDED)
        ((statement, parameters),) = finish_statements([finish])
        finishes.append(bytes_written(server, statement.sql, parameters))
    assert median(filter(None, claims)) < CLAIM_AT_MOST
    assert median(filter(None, finishes)) < FINISH_AT_MOST


def test_the_primary_key_of_jobs_has_room_for_the_entries_of_a_claim_and_a_finish(server):
    query = "SELECT reloptions FROM pg_class WHERE oid = 'pgonly_job_pkey'::regclass"
    assert server.execute(query).fetchone() == (["fillfactor=50"],)
