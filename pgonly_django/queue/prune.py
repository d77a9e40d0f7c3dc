"""Finished jobs leave when their retention is over, with their steps and checkpoint."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

BATCH = 1000

# Index: pgonly_job_finished (a range of it: clock_timestamp() is volatile and would walk all of it).
EXPIRED = """
    SELECT id FROM pgonly_job
    WHERE state IN ('succeeded', 'failed', 'cancelled') AND expires_at < statement_timestamp()
    ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
"""
# Index: the children by job_id. The foreign keys are checked at the commit, after all three.
DELETE = """
ids AS (SELECT array_agg(id) AS list FROM expired),
steps AS (DELETE FROM pgonly_step WHERE job_id = ANY ((SELECT list FROM ids)::uuid[])),
checkpoints AS (DELETE FROM pgonly_checkpoint WHERE job_id = ANY ((SELECT list FROM ids)::uuid[]))
DELETE FROM pgonly_job WHERE id = ANY ((SELECT list FROM ids)::uuid[])
"""
PRUNE = f"WITH expired AS MATERIALIZED ({EXPIRED}), {DELETE}"
# Index: the primary key (for "state || ''" see queue/finish.py).
PRUNE_THESE = f"""
WITH expired AS MATERIALIZED (
    SELECT id FROM pgonly_job WHERE id = ANY (%(ids)s::uuid[])
    AND state || '' IN ('succeeded', 'failed', 'cancelled') AND expires_at < statement_timestamp()
    FOR UPDATE SKIP LOCKED
), {DELETE}
"""
# Index: the primary key. Those that cannot go would stand at the head of every batch.
PUT_OFF = """
UPDATE pgonly_job SET expires_at = clock_timestamp() + interval '1 day'
WHERE id = %(id)s AND state IN ('succeeded', 'failed', 'cancelled')
"""


class Kept(NamedTuple):
    """A job that the database refused to delete, as a rule because a row of the project's refers to it."""

    id: str
    reason: str


class Pruned(NamedTuple):
    """What became of one batch. Those that were kept are tried again a day later."""

    deleted: int
    kept: list[Kept]


def prune(connection: psycopg.Connection[Any], limit: int = BATCH) -> Pruned:
    """Delete one batch of jobs whose retention is over. Fewer than `limit` in all means that was all."""
    try:
        return Pruned(connection.execute(PRUNE, {"limit": limit}).rowcount, [])
    except psycopg.IntegrityError:
        ids = [str(job_id) for (job_id,) in connection.execute(EXPIRED, {"limit": limit})]
        return _prune(connection, ids)


def _prune(connection: psycopg.Connection[Any], ids: list[str]) -> Pruned:
    """All of them, or else each half for itself, down to the ones that cannot go."""
    try:
        return Pruned(connection.execute(PRUNE_THESE, {"ids": ids}).rowcount, [])
    except psycopg.IntegrityError as error:
        if len(ids) == 1:
            connection.execute(PUT_OFF, {"id": ids[0]})
            return Pruned(0, [Kept(ids[0], str(error).strip().splitlines()[0])])
    middle = len(ids) // 2
    first, second = _prune(connection, ids[:middle]), _prune(connection, ids[middle:])
    return Pruned(first.deleted + second.deleted, first.kept + second.kept)
