"""Deletes finished jobs when their retention has ended, with their steps, checkpoints, output, waits and batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from pgonly_django.models.job_rows import FINISHED_STATES, UNFINISHED_STATES
from pgonly_django.models.pruning import Pruned, delete_what_can_go
from pgonly_django.tables import qualified

# The time until which a row of pgonly_job stays although its retention has ended; NULL: not longer. It stays while its
# batch is open, and while there is a job that may read the result: the one that gathers it, or a callback. Where nobody
# prunes by hand that is so until the reader has succeeded: a retry of it would enqueue paid calls again. What a reader
# keeps is looked at an hour later, or a day later if the reader has failed. Index: the primary keys.
SPARED_UNTIL = qualified(f"""CASE WHEN batch_id IS NOT NULL THEN (
        SELECT CASE WHEN batch.finished_at IS NULL THEN clock_timestamp() + interval '1 hour'
            ELSE (SELECT max(CASE WHEN reader.state || '' IN ({UNFINISHED_STATES})
                    THEN clock_timestamp() + interval '1 hour'
                    ELSE greatest(reader.delete_after, clock_timestamp() + interval '1 day') END)
                FROM pgonly_job AS reader
                WHERE reader.id = ANY (ARRAY (SELECT value::uuid FROM jsonb_each_text(batch.sent)) || batch.parent_id)
                    AND (reader.state || '' IN ({UNFINISHED_STATES})
                        OR NOT %(by_hand)s::bool AND reader.state || '' <> 'succeeded')) END
        FROM pgonly_batch AS batch WHERE batch.id = member.batch_id) END""")
# Index: pgonly_job_finished, a range of it. (clock_timestamp() is volatile: the statement would walk all of it.)
EXPIRED = qualified(f"""
    SELECT id, {SPARED_UNTIL} AS spared_until FROM pgonly_job AS member
    WHERE state IN ({FINISHED_STATES}) AND delete_after < statement_timestamp()
    ORDER BY delete_after LIMIT %(limit)s FOR UPDATE OF member SKIP LOCKED
""")
# Index: pgonly_step_once, pgonly_job_output_once, pgonly_wait_once, pgonly_batch_once, the primary keys. The foreign
# keys are checked at the commit, after all deletions. Spared rows are put off, or they would be at the head each time.
# So is a job one of whose batches is locked: whoever retries a member has that lock, and then waits for the member.
DELETE = qualified("""
free AS MATERIALIZED (SELECT id FROM pgonly_batch
    WHERE parent_id = ANY (ARRAY (SELECT id FROM expired WHERE spared_until IS NULL)) FOR UPDATE SKIP LOCKED),
locked AS (SELECT parent_id FROM pgonly_batch WHERE parent_id = ANY (ARRAY (SELECT id FROM expired))
    AND NOT id = ANY (ARRAY (SELECT id FROM free))),
ids AS MATERIALIZED (SELECT ARRAY (SELECT id FROM expired
    WHERE spared_until IS NULL AND NOT id = ANY (ARRAY (SELECT parent_id FROM locked))) AS list),
spared AS (UPDATE pgonly_job AS job SET delete_after = coalesce(spared_until, clock_timestamp() + interval '1 hour')
    FROM expired WHERE job.id = ANY (ARRAY (SELECT id FROM expired WHERE NOT id = ANY ((SELECT list FROM ids)::uuid[])))
        AND job.id = expired.id
    RETURNING job.id),
batches AS (DELETE FROM pgonly_batch WHERE parent_id = ANY ((SELECT list FROM ids)::uuid[])),
steps AS (DELETE FROM pgonly_step WHERE job_id = ANY ((SELECT list FROM ids)::uuid[])),
checkpoints AS (DELETE FROM pgonly_checkpoint WHERE job_id = ANY ((SELECT list FROM ids)::uuid[])),
outputs AS (DELETE FROM pgonly_job_output WHERE job_id = ANY ((SELECT list FROM ids)::uuid[])),
waits AS (DELETE FROM pgonly_wait WHERE job_id = ANY ((SELECT list FROM ids)::uuid[])),
deleted AS (DELETE FROM pgonly_job WHERE id = ANY ((SELECT list FROM ids)::uuid[]) RETURNING id)
SELECT (SELECT count(*) FROM deleted), (SELECT count(*) FROM spared)
""")
PRUNE = f"WITH expired AS MATERIALIZED ({EXPIRED}), {DELETE}"
# Index: the primary key (for "state || ''" see queue/finish.py).
PRUNE_THESE = qualified(f"""
WITH expired AS MATERIALIZED (
    SELECT id, {SPARED_UNTIL} AS spared_until FROM pgonly_job AS member WHERE id = ANY (%(ids)s::uuid[])
    AND state || '' IN ({FINISHED_STATES}) AND delete_after < statement_timestamp()
    FOR UPDATE OF member SKIP LOCKED
), {DELETE}
""")
# Index: the primary key. Otherwise a job that cannot be deleted would stand at the head of every batch.
PUT_OFF = qualified(f"""
UPDATE pgonly_job SET delete_after = clock_timestamp() + interval '1 day'
WHERE id = %(id)s AND state IN ({FINISHED_STATES})
""")


def prune(connection: psycopg.Connection[Any], limit: int = 1000) -> Pruned:
    """Deletes one batch of jobs whose retention has ended. When the answer counts fewer than `limit`, no more are left.
    Jobs that cannot be deleted are tried again a day later."""
    facts = {"limit": limit, "by_hand": False}
    try:
        ((deleted, spared),) = connection.execute(PRUNE, facts)
    except psycopg.IntegrityError:
        ids = [str(job_id) for job_id, _ in connection.execute(EXPIRED, facts)]
        pruned = _prune_these(connection, ids, by_hand=False)
        return pruned._replace(spared=len(ids) - pruned.found)
    return Pruned(deleted, [], spared)


# Index: the primary key. PRUNE_THESE skips a row that another transaction has locked; after this, maintenance deletes
# it.
EXPIRE = qualified(f"""
UPDATE pgonly_job SET delete_after = clock_timestamp() - interval '1 second'
WHERE id = ANY (%(ids)s::uuid[]) AND state || '' IN ({FINISHED_STATES})
""")


def prune_now(connection: psycopg.Connection[Any], ids: Sequence[str]) -> Pruned:
    """Deletes the finished jobs among `ids`, whatever their retention; see prune() for jobs that cannot be deleted.
    Members of an open batch stay, and jobs whose results an unfinished job may read."""
    connection.execute(EXPIRE, {"ids": list(ids)})
    return _prune_these(connection, ids, by_hand=True)


def _prune_these(connection: psycopg.Connection[Any], ids: Sequence[str], *, by_hand: bool) -> Pruned:
    """Deletes the jobs that are still finished and due: a job may have run again since its id was read."""
    return delete_what_can_go(
        ids,
        lambda some: next(connection.execute(PRUNE_THESE, {"ids": list(some), "by_hand": by_hand}))[0],
        lambda job_id: connection.execute(PUT_OFF, {"id": job_id}),
    )
