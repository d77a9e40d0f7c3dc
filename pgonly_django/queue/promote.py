"""Makes scheduled jobs ready when they are due, and says when the next one is."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from pgonly_django.database import notify
from pgonly_django.tables import qualified

BATCH = 1000

# Index: pgonly_job_scheduled, then the primary key. Two workers that promote at once take different rows. The NOTIFY is
# sent at the commit. statement_timestamp() makes a range of the index; clock_timestamp() is volatile, and every
# promotion would walk over all scheduled jobs.
# A job whose last run left `ready_at` alone keeps its place (queue/finish.py).
PROMOTE = qualified(f"""
WITH due AS MATERIALIZED (
    SELECT id FROM pgonly_job WHERE state = 'scheduled' AND run_at <= statement_timestamp()
    ORDER BY run_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED
),
promoted AS (
    UPDATE pgonly_job SET state = 'ready',
        ready_at = CASE WHEN attempted_at >= ready_at THEN ready_at ELSE clock_timestamp() END,
        ready_again_at = CASE WHEN attempted_at >= ready_at THEN clock_timestamp() END
    WHERE id = ANY (ARRAY (SELECT id FROM due)) RETURNING queue, slots
)
SELECT
    (SELECT count(*) FROM promoted),
    (SELECT count(pg_notify('{notify.CHANNEL}', kind || ' ' || queue)) FROM (
        SELECT DISTINCT queue, CASE WHEN slots IS NULL THEN '{notify.READY}' ELSE '{notify.LIMITED}' END AS kind
        FROM promoted) AS woken),
    (SELECT date_part('epoch', run_at) - date_part('epoch', clock_timestamp()) FROM pgonly_job
     WHERE state = 'scheduled' AND run_at > statement_timestamp() ORDER BY run_at LIMIT 1)
""")


class Promoted(NamedTuple):
    jobs: int
    next_due_in_seconds: float | None


def promote(connection: psycopg.Connection[Any]) -> Promoted:
    """Make one batch of due jobs ready. A full batch means there may be more: the next is due at once."""
    row = connection.execute(PROMOTE, prepare=True).fetchone()
    assert row is not None
    count, _, next_due_in = row
    return Promoted(count, 0.0 if count >= BATCH else next_due_in)
