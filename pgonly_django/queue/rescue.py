"""Jobs of a dead worker go back to ready; the one that seems to kill its workers is stopped at three.

A worker is dead when a lease of its has run out and its heartbeat is older than a lease. All its running rows
are taken at once, whatever their own lease says, so that they are judged together. A first death says little:
most workers are killed by their platform, and their jobs go on at once, side by side. From the second on a job
is a suspect, of which a process runs one at a time:

* without a suspect among them, all are blamed (crashes 0 -> 1, 1 -> 2);
* with one, and with others that were there at an earlier death too: it may have been those, who become
  suspects; the one is not blamed for them;
* with one beside jobs without a past only: it is blamed (2 -> 3, the end), its neighbours are not.

What a worker that stopped as planned could not give back (its row was locked) is released late: nothing is blamed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from pgonly_django.models.job import CRASHES_ALLOWED, ERRORS_KEPT, EXPIRES_AT, SUSPECT_FROM

ADVISORY_LOCK = 0x70676F6E_01  # "pgon", duty 1
END_WITHIN_MS = 2000  # a backend that is ended has rolled back and let go of its locks

# Index: pgonly_job_running. A worker whose row somebody holds locked cannot write its heartbeat: it is dead when none
# of its leases is good any more.
DEAD_WORKER = f"""
silent AS MATERIALIZED (
    SELECT id FROM pgonly_worker WHERE heartbeat_at < clock_timestamp() - %(lease_for)s::interval
    FOR NO KEY UPDATE SKIP LOCKED
),
dead_worker AS (
    SELECT DISTINCT job.worker_id AS id
    FROM pgonly_job AS job LEFT JOIN pgonly_worker AS worker ON worker.id = job.worker_id
    WHERE job.state = 'running' AND job.lease_expires_at < clock_timestamp()
        AND (worker.id IS NULL OR worker.stopped_at IS NOT NULL OR worker.id IN (SELECT id FROM silent)
            OR worker.heartbeat_at < clock_timestamp() - %(lease_for)s::interval AND NOT EXISTS (
                SELECT FROM pgonly_job AS beside WHERE beside.state = 'running'
                    AND beside.worker_id = worker.id AND beside.lease_expires_at >= clock_timestamp()))
        AND pg_postmaster_start_time() < clock_timestamp() - %(settle_for)s::interval
        AND pg_try_advisory_xact_lock({ADVISORY_LOCK})
)
"""

# Index: pgonly_job_running, the primary key of pgonly_worker. Two rescuers: the lock lets one through; were
# both through, SKIP LOCKED and the state would keep them apart. Errors that are no list (another program wrote them)
# must not raise here: no job of any dead worker would be rescued.
RESCUE = f"""
WITH {DEAD_WORKER},
orphan AS MATERIALIZED (
    SELECT job.id, job.worker_id, job.crashes FROM pgonly_job AS job
    WHERE job.state = 'running' AND job.worker_id IN (SELECT id FROM dead_worker)
    FOR UPDATE OF job SKIP LOCKED
),
judged AS (
    SELECT orphan.id, worker.name AS worker_name, worker.stopped_at IS NOT NULL AS was_stopped, orphan.crashes + (CASE
        WHEN worker.stopped_at IS NOT NULL THEN false
        WHEN orphan.crashes >= {SUSPECT_FROM} THEN NOT bool_or(orphan.crashes = 1) OVER beside
        WHEN orphan.crashes = 1 THEN true
        ELSE NOT bool_or(orphan.crashes >= {SUSPECT_FROM}) OVER beside END)::int AS crashes, orphan.crashes AS before
    FROM orphan LEFT JOIN pgonly_worker AS worker ON worker.id = orphan.worker_id
    WINDOW beside AS (PARTITION BY orphan.worker_id)
)
UPDATE pgonly_job AS job SET
    state = CASE WHEN judged.crashes >= {CRASHES_ALLOWED} THEN 'failed'
        WHEN job.cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'ready' END,
    ready_at = clock_timestamp(),
    lease_expires_at = NULL,
    attempt = greatest(job.attempt - 1, 0),
    crashes = judged.crashes,
    interruptions = job.interruptions + judged.was_stopped::int,
    errors = (CASE WHEN jsonb_typeof(job.errors) <> 'array' THEN '[]'::jsonb
            WHEN jsonb_array_length(job.errors) >= {ERRORS_KEPT} THEN job.errors - 0 ELSE job.errors END)
        || jsonb_build_object(
            'outcome', CASE WHEN judged.was_stopped THEN 'released' ELSE 'crashed' END,
            'attempt', job.attempt,
            'worker_id', job.worker_id,
            'worker', coalesce(judged.worker_name, 'unknown'),
            'started_at', job.attempted_at,
            'finished_at', clock_timestamp(),
            'reason', CASE WHEN judged.was_stopped THEN 'Its worker was stopped and could not give it back.'
                WHEN judged.crashes >= {CRASHES_ALLOWED}
                THEN format('Its worker died %%s times while it ran; it is not started again.', judged.crashes)
                WHEN judged.crashes > judged.before
                THEN format('Its worker died while it ran (%%s of {CRASHES_ALLOWED} allowed).', judged.crashes)
                ELSE 'Its worker died while it ran; another job is suspected.' END
        ),
    finished_at = CASE WHEN judged.crashes >= {CRASHES_ALLOWED} OR job.cancel_requested_at IS NOT NULL
        THEN clock_timestamp() END,
    expires_at = CASE WHEN judged.crashes >= {CRASHES_ALLOWED} OR job.cancel_requested_at IS NOT NULL
        THEN {EXPIRES_AT.format(job="job.")} END
FROM judged WHERE job.id = judged.id
RETURNING job.id, job.task, job.queue, job.state, job.crashes, coalesce(judged.worker_name, 'unknown')
"""


class Rescued(NamedTuple):
    id: UUID
    task: str
    queue: str
    state: str
    crashes: int
    worker: str


def rescue(connection: psycopg.Connection[Any], lease_for: timedelta, settle_for: timedelta) -> list[Rescued]:
    """Take back the jobs of dead workers. `settle_for`: nobody is called dead this soon after a server start."""
    parameters = {"lease_for": lease_for, "settle_for": settle_for}
    rows = connection.execute(RESCUE, parameters).fetchall()
    return [Rescued(*row) for row in rows]


# Index: pgonly_job_running. A process that is frozen keeps its transactions open, and locked the row of each job that
# saved a step inside, as well as rows of the project's that its next run needs. Its connections bear its id in their
# names, in whatever database of the server; those that have written or locked something have a transaction id.
END_TRANSACTIONS = f"""
WITH {DEAD_WORKER}
SELECT dead_worker.id, activity.pid, pg_terminate_backend(activity.pid, {END_WITHIN_MS})
FROM dead_worker JOIN pg_stat_activity AS activity ON strpos(activity.application_name, dead_worker.id::text) > 0
WHERE activity.backend_xid IS NOT NULL AND activity.pid <> pg_backend_pid()
    AND (%(of_any_role)s::bool OR pg_has_role(activity.usesysid, 'USAGE'))
"""


def end_transactions(
    connection: psycopg.Connection[Any],
    lease_for: timedelta,
    settle_for: timedelta,
    *,
    of_any_role: bool = True,
) -> list[tuple[UUID, int]]:
    """End what dead workers have open, before their jobs are rescued: (worker's id, process id of the server).

    Their runs may write nothing any more, and are rolled back. Raises InsufficientPrivilege where some of it belongs
    to a role whose connections this one may not end; `of_any_role` False leaves all of those out.
    """
    parameters = {"lease_for": lease_for, "settle_for": settle_for, "of_any_role": of_any_role}
    rows = connection.execute(END_TRANSACTIONS, parameters).fetchall()
    return [(worker_id, pid) for worker_id, pid, _ in rows]
