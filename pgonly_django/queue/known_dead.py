"""Takes the jobs of workers back whose process was seen to end, without waiting for a lease: see rescue.py.

PostgreSQL may still work on what such a process sent last, as a claim. It may be over only when its sessions are gone.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from pgonly_django.database.connect import OwnConnection
from pgonly_django.queue.rescue import ADVISORY_LOCK, END_WITHIN_MS, TAKE_BACK, Rescued
from pgonly_django.tables import qualified

SESSIONS_GO_WITHIN_SECONDS, LOOK_AGAIN_SECONDS = 0.3, 0.02

# The names of a worker's sessions, in every database of the server, contain its id. Those that stand idle hold nothing:
# behind a pooler they may be of use to others.
SESSIONS = """
SELECT known.id, activity.pid FROM unnest(%(workers)s::uuid[]) AS known(id)
JOIN pg_stat_activity AS activity ON strpos(activity.application_name, known.id::text) > 0
WHERE activity.pid <> pg_backend_pid() AND (activity.state <> 'idle' OR activity.backend_xid IS NOT NULL)
    AND (%(of_any_role)s::bool OR pg_has_role(activity.usesysid, 'USAGE'))
"""
END_SESSIONS = f"SELECT id, pid, pg_terminate_backend(pid, {END_WITHIN_MS}) FROM ({SESSIONS}) AS session"


def end_sessions(
    connection: psycopg.Connection[Any], workers: Collection[UUID], *, of_any_role: bool = True
) -> list[tuple[UUID, int]]:
    """Wait until PostgreSQL is done with what these workers sent, and end what is not over soon: (id of the worker, pid
    of the backend). Raises InsufficientPrivilege as end_transactions() of rescue.py does."""
    parameters = {"workers": list(workers), "of_any_role": of_any_role}
    deadline = time.monotonic() + SESSIONS_GO_WITHIN_SECONDS
    while connection.execute(SESSIONS, parameters).fetchone() is not None:
        if time.monotonic() >= deadline:
            rows = connection.execute(END_SESSIONS, parameters)
            return [(worker_id, pid) for worker_id, pid, _ in rows]
        time.sleep(LOOK_AGAIN_SECONDS)
    return []


# Index: the primary key of pgonly_worker.
STOP = qualified("""
UPDATE pgonly_worker SET stopped_at = clock_timestamp(), running = 0 WHERE id IN (
    SELECT id FROM pgonly_worker WHERE id = ANY (%(workers)s::uuid[]) AND stopped_at IS NULL
    FOR NO KEY UPDATE SKIP LOCKED
)
""")

# Index: pgonly_job_running, the primary keys. The advisory lock as in RESCUE.
RESCUE_KNOWN_DEAD = qualified(f"""
WITH dead_worker AS MATERIALIZED (
    SELECT id FROM unnest(%(workers)s::uuid[]) AS known(id) WHERE pg_try_advisory_xact_lock({ADVISORY_LOCK})
), {TAKE_BACK}""")

# Index: pgonly_job_running.
STILL_RUNNING = qualified(
    "SELECT DISTINCT worker_id FROM pgonly_job WHERE state = 'running' AND worker_id = ANY (%(workers)s::uuid[])"
)


class TakenBack(NamedTuple):
    rescued: list[Rescued]
    still: set[UUID]  # workers in whose name rows are left, which somebody else has locked: try again


def rescue_known_dead(
    connection: OwnConnection, workers: Collection[UUID], *, planned: bool = False
) -> TakenBack:
    """Give the jobs of these workers back, all in one transaction, and mark the workers as stopped. `planned`: they
    were told to stop, so that no job is blamed. Call end_sessions() before it. Raises psycopg.Error."""
    parameters = {"workers": list(workers)}
    with connection.session_settings(), connection.transaction():
        if planned:
            connection.execute(STOP, parameters)
        rescued = [Rescued(*row) for row in connection.execute(RESCUE_KNOWN_DEAD, parameters)]
        still = {worker_id for (worker_id,) in connection.execute(STILL_RUNNING, parameters)}
        # While a row is left its worker is not marked as stopped: the job would not be blamed any more.
        over = [worker_id for worker_id in workers if worker_id not in still]
        connection.execute(STOP, {"workers": over})
    return TakenBack(rescued, still)
