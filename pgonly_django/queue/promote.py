"""Makes scheduled jobs ready when they are due, and counts the waiting ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from pgonly_django.database import notify
from pgonly_django.database.on_django import all_rows
from pgonly_django.models.job import READY_AGAIN
from pgonly_django.models.job_rows import IS_DUE_ONCE
from pgonly_django.queue.candidates import LIMITED_ROW, READY_ROW, SUSPECT_ROW, changes_of
from pgonly_django.queue.claim import BANDS_OF_ALL
from pgonly_django.tables import qualified

BATCH = 1000

SET_READY_AGAIN = changes_of(READY_AGAIN)
# Index: pgonly_job_scheduled, then the primary key; pgonly_event_undelivered, which is empty most of the time. Two
# workers that promote at once take different rows. The NOTIFY is sent at the commit. statement_timestamp() makes a
# range of the index; clock_timestamp() is volatile, and every promotion would walk over all scheduled jobs.
PROMOTE = qualified(f"""
WITH due AS MATERIALIZED (
    SELECT id FROM pgonly_job WHERE state = 'scheduled' AND run_at <= statement_timestamp()
    ORDER BY run_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED
),
promoted AS (
    UPDATE pgonly_job SET {SET_READY_AGAIN}
    WHERE id = ANY (ARRAY (SELECT id FROM due)) RETURNING queue, slots
)
SELECT
    (SELECT count(*) FROM promoted),
    {notify.WAKE_WORKERS_OF.format(rows="promoted")},
    (SELECT date_part('epoch', run_at) - date_part('epoch', clock_timestamp()) FROM pgonly_job
     WHERE state = 'scheduled' AND run_at > statement_timestamp() AND {IS_DUE_ONCE} ORDER BY run_at LIMIT 1),
    coalesce((SELECT true FROM pgonly_event WHERE NOT is_delivered ORDER BY sent_at LIMIT 1), false)
""")


class Promoted(NamedTuple):
    jobs: int
    next_due_in_seconds: float | None
    has_events: bool  # that are not delivered: see queue/waits.py


def promote(connection: psycopg.Connection[Any]) -> Promoted:
    """Makes one batch of due jobs ready. A full batch means there may be more: the next is due at once."""
    row = connection.execute(PROMOTE, prepare=True).fetchone()
    assert row is not None
    count, _, next_due_in, has_events = row
    return Promoted(count, 0.0 if count >= BATCH else next_due_in, has_events)


COUNTED_AT_MOST = 1000  # of each kind

# Index: pgonly_job_ready, pgonly_job_suspect and pgonly_job_limited, the first 1,000 entries; pgonly_job_scheduled, the
# first one. Limited jobs are counted by band: without statistics PostgreSQL would sort all to count the first ones.
COUNT_WAITING = qualified(f"""
WITH RECURSIVE limited_bands(queue, priority) AS ({BANDS_OF_ALL.format(row=LIMITED_ROW, bands="limited_bands")})
SELECT
    (SELECT count(*) FROM (SELECT FROM pgonly_job WHERE {READY_ROW}
        ORDER BY queue, priority DESC, ready_at, id LIMIT {COUNTED_AT_MOST}) AS plain)
    + (SELECT count(*) FROM (SELECT FROM pgonly_job WHERE {SUSPECT_ROW}
        ORDER BY ready_at LIMIT {COUNTED_AT_MOST}) AS suspects)
    + (SELECT count(*) FROM (SELECT FROM limited_bands AS band CROSS JOIN LATERAL (
        SELECT FROM pgonly_job WHERE {LIMITED_ROW} AND queue = band.queue AND priority = band.priority
        LIMIT {COUNTED_AT_MOST}) AS of_band LIMIT {COUNTED_AT_MOST}) AS limited),
    (SELECT date_part('epoch', run_at) - date_part('epoch', clock_timestamp()) FROM pgonly_job
     WHERE state = 'scheduled' AND {IS_DUE_ONCE} ORDER BY run_at LIMIT 1)
""")


class WaitingJobs(NamedTuple):
    ready: int  # at most COUNTED_AT_MOST of each kind: plain ones, suspects, limited ones
    next_due_in_seconds: float | None  # below zero: it is overdue


def count_waiting(alias: str) -> WaitingJobs:
    """Counts the jobs that are ready, and finds when the next one is due, for callers that ask now and then."""
    (row,) = all_rows(alias, COUNT_WAITING)
    return WaitingJobs(*row)
