"""What waits in the queue, for those who ask now and then: how many jobs are ready, and when the next one is due."""

from __future__ import annotations

from typing import NamedTuple

from django.db import connections

from pgonly_django.models.job import LIMITED_ROW, READY_ROW, SUSPECT_ROW
from pgonly_django.queue.claim import BANDS_OF_ALL
from pgonly_django.tables import qualified

COUNTED = 1000  # of each kind

# Index: pgonly_job_ready, pgonly_job_suspect and pgonly_job_limited, the first 1,000 entries; pgonly_job_scheduled, the
# first one. Limited jobs are counted by band: without statistics PostgreSQL would sort all to count the first ones.
LOOK = qualified(f"""
WITH RECURSIVE limited_bands(queue, priority) AS ({BANDS_OF_ALL.format(row=LIMITED_ROW, bands="limited_bands")})
SELECT
    (SELECT count(*) FROM (SELECT FROM pgonly_job WHERE {READY_ROW}
        ORDER BY queue, priority DESC, ready_at, id LIMIT {COUNTED}) AS plain)
    + (SELECT count(*) FROM (SELECT FROM pgonly_job WHERE {SUSPECT_ROW} ORDER BY ready_at LIMIT {COUNTED}) AS suspects)
    + (SELECT count(*) FROM (SELECT FROM limited_bands AS band CROSS JOIN LATERAL (
        SELECT FROM pgonly_job WHERE {LIMITED_ROW} AND queue = band.queue AND priority = band.priority
        LIMIT {COUNTED}) AS of_band LIMIT {COUNTED}) AS limited),
    (SELECT date_part('epoch', run_at) - date_part('epoch', clock_timestamp()) FROM pgonly_job
     WHERE state = 'scheduled' ORDER BY run_at LIMIT 1)
""")


class Waiting(NamedTuple):
    ready: int  # at most COUNTED of each kind: plain ones, suspects, limited ones
    next_due_in_seconds: float | None  # below zero: it is overdue


def look(alias: str) -> Waiting:
    with connections[alias].cursor() as cursor:
        cursor.execute(LOOK)
        ready, next_due_in_seconds = cursor.fetchone()
    return Waiting(ready, next_due_in_seconds)
