"""Finished jobs leave when their retention is over, with their steps and checkpoint."""

from __future__ import annotations

from typing import Any

import psycopg

BATCH = 1000

# Index: pgonly_job_finished (a range of it: clock_timestamp() is volatile and would walk all of it); the children
# by job_id. The foreign keys are checked at the commit, after all three.
PRUNE = """
WITH expired AS MATERIALIZED (
    SELECT id FROM pgonly_job
    WHERE state IN ('succeeded', 'failed', 'cancelled') AND expires_at < statement_timestamp()
    ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
ids AS (SELECT array_agg(id) AS list FROM expired),
steps AS (DELETE FROM pgonly_step WHERE job_id = ANY ((SELECT list FROM ids)::uuid[])),
checkpoints AS (DELETE FROM pgonly_checkpoint WHERE job_id = ANY ((SELECT list FROM ids)::uuid[]))
DELETE FROM pgonly_job WHERE id = ANY ((SELECT list FROM ids)::uuid[])
"""


def prune(connection: psycopg.Connection[Any], limit: int = BATCH) -> int:
    """Delete one batch of jobs whose retention is over. Returns how many; fewer than `limit` means that was all."""
    return connection.execute(PRUNE, {"limit": limit}).rowcount
