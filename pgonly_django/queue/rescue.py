"""Gives the jobs of dead workers back. A job fails when its workers died three times in a row without anything new
having been saved in between: no new step, and the checkpoint and the loops' positions are what they were.

A worker is dead when a lease of its jobs has run out and its heartbeat is older than a lease. All its running rows are
taken at once, whatever their own leases say, so that they are judged together. The first death says little, since most
workers are killed by their platform: the jobs continue at once, side by side. From the second death on a job is a
suspect, and a process runs one suspect at a time. What is stored says whether a job has saved something new since its
last death; then it counts as one without an earlier death. There is no bound of all deaths: a job of two hours may get
further on many short-lived machines. At each death:

* no suspect among the jobs: all are blamed (crashes 0 -> 1, 1 -> 2);
* a suspect, and jobs that were there at an earlier death too: those are blamed and become suspects; the suspect is not;
* a suspect, and only jobs without an earlier death beside it: the suspect alone is blamed (2 -> 3, its end).

Jobs that a stopped worker could not give back, because their rows were locked, are released late: no job is blamed.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from pgonly_django.conf import settings
from pgonly_django.database.connect import OwnConnection
from pgonly_django.models.job_rows import (
    CRASHES_ALLOWED,
    DELETE_AFTER,
    EARLIER_ERRORS,
    FAILED_DELETE_AFTER,
    SUSPECT_FROM,
)
from pgonly_django.queue.checkpoints import NOTHING_NEW_SAVED, SAVED
from pgonly_django.tables import qualified

ADVISORY_LOCK = 0x70676F6E_01  # "pgon", duty 1
END_WITHIN_MS = 2000  # by then a backend that is ended has rolled back and released its locks

# Index: pgonly_job_running, the primary key of pgonly_worker. A worker whose own row is locked cannot write its
# heartbeat: it is dead when all its leases have run out.
DEAD_WORKER = qualified(f"""
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
""")

# The jobs of all whose id is in dead_worker. A run whose end nobody saw, as a lease that has run
# out tells, has ended when its worker was last heard of: by its heartbeat, or when it last renewed a lease.
TAKE_BACK = qualified(f"""
orphan AS MATERIALIZED (
    SELECT job.id, job.worker_id, job.cancel_requested_at, job.lease_expires_at, {SAVED} AS saved,
        CASE WHEN job.crashes > 0 AND {NOTHING_NEW_SAVED} THEN job.crashes ELSE 0 END AS crashes
    FROM pgonly_job AS job
    WHERE job.state = 'running' AND job.worker_id IN (SELECT id FROM dead_worker)
    FOR UPDATE OF job SKIP LOCKED
),
judged AS (
    SELECT orphan.*, coalesce(worker.name, 'unknown') AS worker_name, worker.stopped_at IS NOT NULL AS was_stopped,
        CASE WHEN bool_or(orphan.lease_expires_at < clock_timestamp()) OVER beside
            THEN greatest(coalesce(worker.stopped_at, worker.heartbeat_at),
                max(orphan.lease_expires_at) OVER beside - %(lease_for)s::interval) END AS heard_at,
        orphan.crashes + (CASE
        WHEN worker.stopped_at IS NOT NULL THEN false
        WHEN orphan.crashes >= {SUSPECT_FROM}
        THEN NOT bool_or(orphan.crashes BETWEEN 1 AND {SUSPECT_FROM - 1}) OVER beside
        WHEN orphan.crashes > 0 THEN true
        ELSE NOT bool_or(orphan.crashes >= {SUSPECT_FROM}) OVER beside END)::int AS crashes_now
    FROM orphan LEFT JOIN pgonly_worker AS worker ON worker.id = orphan.worker_id
    WINDOW beside AS (PARTITION BY orphan.worker_id)
),
rescued AS (
    SELECT judged.*, CASE WHEN crashes_now >= {CRASHES_ALLOWED} THEN 'failed'
        WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'ready' END AS state
    FROM judged
)
UPDATE pgonly_job AS job SET
    state = rescued.state,
    ready_again_at = CASE rescued.state WHEN 'ready' THEN clock_timestamp() ELSE job.ready_again_at END,
    lease_expires_at = NULL,
    attempt = greatest(attempt - 1, 0),
    crashes = crashes_now,
    interruptions = interruptions + was_stopped::int,
    errors = ({EARLIER_ERRORS})
        || jsonb_build_object(
            'outcome', CASE WHEN was_stopped THEN 'released' ELSE 'crashed' END,
            'attempt', attempt,
            'worker_id', job.worker_id,
            'worker', worker_name,
            'saved', saved,
            'started_at', attempted_at,
            'finished_at', CASE WHEN heard_at IS NULL THEN clock_timestamp()
                ELSE least(clock_timestamp(), greatest(attempted_at, heard_at)) END,
            'reason', CASE WHEN was_stopped THEN 'Its worker was stopped and could not give it back.'
                WHEN crashes_now >= {CRASHES_ALLOWED}
                THEN format('Its worker died %%s times while it ran, and nothing new was saved in between; it is not '
                    'started again.', crashes_now)
                WHEN crashes_now > rescued.crashes
                THEN format('Its worker died while it ran (%%s of {CRASHES_ALLOWED} allowed).', crashes_now)
                ELSE 'Its worker died while it ran; another job is suspected.' END
        ),
    finished_at = CASE WHEN rescued.state <> 'ready' THEN clock_timestamp() END,
    delete_after = CASE rescued.state WHEN 'failed' THEN {FAILED_DELETE_AFTER} WHEN 'cancelled' THEN {DELETE_AFTER} END
FROM rescued WHERE job.id = rescued.id
RETURNING job.id, job.task, job.queue, job.state, job.crashes, worker_name, was_stopped
""")

# Index: pgonly_job_running, the primary keys. Of two workers that rescue at once the advisory lock lets one through;
# without it, SKIP LOCKED and the state would keep them apart.
RESCUE = qualified(f"WITH {DEAD_WORKER}, {TAKE_BACK}")


class Rescued(NamedTuple):
    id: UUID
    task: str
    queue: str
    state: str
    crashes: int
    worker: str
    was_stopped: bool  # by plan: no death


def rescue(connection: psycopg.Connection[Any], lease_for: timedelta, settle_for: timedelta) -> list[Rescued]:
    """Gives the jobs of dead workers back. No worker is declared dead within `settle_for` of a start of the server."""
    rows = connection.execute(RESCUE, {"lease_for": lease_for, "settle_for": settle_for})
    return [Rescued(*row) for row in rows]


# Index: pgonly_job_running, the primary key of pgonly_worker. A frozen process keeps its transactions open: they lock
# the row of each job that saved a step inside, and rows of the project that the next run needs. The names of its
# connections, in every database of the server, contain its id; those that have written or locked rows have a
# transaction id.
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
    """Ends the open transactions of dead workers before their jobs are rescued. Returns (id of the worker, pid of the
    backend). Those runs are fenced off already; what they wrote is rolled back. Raises InsufficientPrivilege where a
    transaction belongs to a role whose connections this role may not end; `of_any_role` False leaves all of those
    out."""
    parameters = {"lease_for": lease_for, "settle_for": settle_for, "of_any_role": of_any_role}
    rows = connection.execute(END_TRANSACTIONS, parameters)
    return [(worker_id, pid) for worker_id, pid, _ in rows]


SESSIONS_GO_WITHIN_SECONDS, LOOK_AGAIN_SECONDS = 0.3, 0.02

# The names of a worker's sessions, in every database of the server, contain its id. Those that stand idle hold nothing:
# behind a pooler they may be of use to others.
SESSIONS = """
SELECT pid FROM pg_stat_activity
WHERE strpos(application_name, %(worker)s::text) > 0 AND pid <> pg_backend_pid()
    AND (state <> 'idle' OR backend_xid IS NOT NULL)
    AND (%(of_any_role)s::bool OR pg_has_role(usesysid, 'USAGE'))
"""
END_SESSIONS = f"SELECT pid, pg_terminate_backend(pid, {END_WITHIN_MS}) FROM ({SESSIONS}) AS session"


def end_sessions(
    connection: psycopg.Connection[Any], worker_id: UUID, *, of_any_role: bool = True
) -> list[int]:
    """Waits until PostgreSQL is done with what this worker sent, and ends what does not end soon. Returns the pids of
    the backends. Raises InsufficientPrivilege as end_transactions() does."""
    parameters = {"worker": worker_id, "of_any_role": of_any_role}
    deadline = time.monotonic() + SESSIONS_GO_WITHIN_SECONDS
    while connection.execute(SESSIONS, parameters).fetchone() is not None:
        if time.monotonic() >= deadline:
            return [pid for pid, _ in connection.execute(END_SESSIONS, parameters)]
        time.sleep(LOOK_AGAIN_SECONDS)
    return []


# Index: the primary key of pgonly_worker.
STOP = qualified("""
UPDATE pgonly_worker SET stopped_at = clock_timestamp(), running = 0 WHERE id IN (
    SELECT id FROM pgonly_worker WHERE id = %(worker)s AND stopped_at IS NULL FOR NO KEY UPDATE SKIP LOCKED
)
""")

# Index: pgonly_job_running, the primary keys. The advisory lock as in RESCUE.
RESCUE_KNOWN_DEAD = qualified(f"""
WITH dead_worker AS MATERIALIZED (
    SELECT %(worker)s::uuid AS id WHERE pg_try_advisory_xact_lock({ADVISORY_LOCK})
), {TAKE_BACK}""")

# Index: pgonly_job_running.
STILL_RUNNING = qualified(
    "SELECT EXISTS (SELECT FROM pgonly_job WHERE state = 'running' AND worker_id = %(worker)s)"
)


def rescue_known_dead(
    connection: OwnConnection, worker_id: UUID, *, planned: bool = False
) -> tuple[list[Rescued], bool]:
    """Gives the jobs of this worker back, all in one transaction, and marks it as stopped. `planned`: it was told to
    stop, so that no job is blamed. Call end_sessions() before it. Returns the rescued jobs, and whether rows are left
    in its name, which another transaction has locked: try again. Raises psycopg.Error."""
    parameters = {"worker": worker_id, "lease_for": timedelta(seconds=settings().lease_seconds)}
    with connection.session_settings(), connection.transaction():
        if planned:
            connection.execute(STOP, parameters)
        rescued = [Rescued(*row) for row in connection.execute(RESCUE_KNOWN_DEAD, parameters)]
        ((some_are_left,),) = connection.execute(STILL_RUNNING, parameters)
        # While a row is left the worker is not marked as stopped: the job would not be blamed any more.
        if not some_are_left:
            connection.execute(STOP, parameters)
    return rescued, some_are_left
