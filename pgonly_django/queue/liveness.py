"""The liveness of a worker: its row, which is made at its start, kept fresh by its heartbeat, closed at its stop and
deleted a day later; and the leases of its jobs. It renews them by a list of (id, lease_epoch), so a job that another
worker has claimed since is left alone."""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from pgonly_django.models.job_rows import IS_DUE_ONCE
from pgonly_django.tables import qualified

# Index: the primary key of pgonly_worker. It does not wait for a lock of the row.
REGISTER = qualified("""
INSERT INTO pgonly_worker (id, name, hostname, pid, queues, threads, running, started_at, heartbeat_at,
    version, python, release)
VALUES (%(id)s, %(name)s, %(hostname)s, %(pid)s, %(queues)s::jsonb, %(threads)s, 0,
    clock_timestamp(), clock_timestamp(), %(version)s, %(python)s, %(release)s)
ON CONFLICT (id) DO NOTHING
""")


def register(connection: psycopg.Connection[Any], facts: Mapping[str, Any]) -> None:
    connection.execute(REGISTER, facts)


class Request(StrEnum):
    """A person's request to a worker."""

    STOP = "stop"
    DRAIN = "drain"


# Of the worker's row. A stop comes sooner than the end of a drain.
REQUEST = (
    "CASE WHEN stop_requested_at IS NOT NULL THEN 'stop' WHEN drain_requested_at IS NOT NULL THEN 'drain' END"
)

# Index: the primary key of pgonly_worker.
REQUESTED = qualified(f"SELECT {REQUEST} FROM pgonly_worker WHERE id = %(worker)s")


def requested(connection: psycopg.Connection[Any], worker_id: UUID) -> Request | None:
    """Returns what a person asks of this worker."""
    row = connection.execute(REQUESTED, {"worker": worker_id}).fetchone()
    return Request(row[0]) if row and row[0] else None


# Index: pgonly_job_running, pgonly_batch_open, the primary key of pgonly_worker. A worker whose own row is locked
# keeps its leases.
HEARTBEAT = qualified(f"""
WITH free AS MATERIALIZED (
    SELECT id FROM pgonly_worker WHERE id = %(worker)s FOR NO KEY UPDATE SKIP LOCKED
),
beaten AS (
    UPDATE pgonly_worker SET heartbeat_at = clock_timestamp(), running = %(running)s, sleeping_since = NULL,
        memory_mb = coalesce(%(memory)s::jsonb, memory_mb)
    WHERE id = (SELECT id FROM free) RETURNING id
)
SELECT EXISTS (SELECT FROM beaten),
    EXISTS (SELECT FROM pgonly_job WHERE state = 'running' AND lease_expires_at < clock_timestamp()),
    EXISTS (SELECT FROM pgonly_job WHERE state = 'running'),
    EXISTS (SELECT FROM pgonly_batch WHERE finished_at IS NULL),
    {REQUEST}
FROM pgonly_worker WHERE id = %(worker)s
""")


class Beat(NamedTuple):
    was_written: bool  # False where another transaction has locked the worker's row
    some_lease_expired: bool  # of any worker
    some_running: bool  # a job of any worker
    some_batch_open: bool
    request: str | None  # see Request


def heartbeat(
    connection: psycopg.Connection[Any], worker_id: UUID, running: int, memory: str | None = None
) -> Beat | None:
    """Says that the worker is alive. `memory`: what memory_mb is now, as JSON; None: as it was. Returns None when its
    row does not exist any more."""
    parameters = {"worker": worker_id, "running": running, "memory": memory}
    row = connection.execute(HEARTBEAT, parameters, prepare=True).fetchone()
    return None if row is None else Beat(*row)


# Index: the primary key of pgonly_worker; pgonly_job_running and pgonly_job_scheduled, of each the first row.
FALL_ASLEEP = qualified(f"""
WITH asleep AS (
    UPDATE pgonly_worker SET sleeping_since = clock_timestamp(), heartbeat_at = clock_timestamp(), running = 0
    WHERE id = %(worker)s AND NOT EXISTS (SELECT FROM pgonly_job WHERE state = 'running') RETURNING id
)
SELECT EXISTS (SELECT FROM asleep),
    (SELECT date_part('epoch', run_at) - date_part('epoch', clock_timestamp()) FROM pgonly_job
     WHERE state = 'scheduled' AND {IS_DUE_ONCE} ORDER BY run_at LIMIT 1)
""")


class FallenAsleep(NamedTuple):
    is_asleep: bool
    next_due_in_seconds: float | None  # of a scheduled job


def fall_asleep(connection: psycopg.Connection[Any], worker_id: UUID) -> FallenAsleep:
    """Says that the worker will close its connections, unless a job of any runs. The next heartbeat ends that."""
    row = connection.execute(FALL_ASLEEP, {"worker": worker_id}).fetchone()
    assert row is not None
    return FallenAsleep(*row)


# Index: the primary key of pgonly_worker.
STOPPED = qualified(
    "UPDATE pgonly_worker SET stopped_at = clock_timestamp(), running = 0, sleeping_since = NULL WHERE id = %(worker)s"
)


def stopped(connection: psycopg.Connection[Any], worker_id: UUID) -> None:
    connection.execute(STOPPED, {"worker": worker_id})


# Index: none; pgonly_worker is small. date_bin() and not a pause since the last one: a tick that is killed leaves the
# duty to the next part of the time.
FIRST_OF_ITS_NAME = qualified("""
SELECT NOT EXISTS (
    SELECT FROM pgonly_worker AS other JOIN pgonly_worker AS own ON own.id = %(worker)s
    WHERE other.name = own.name AND (other.started_at, other.id) < (own.started_at, own.id)
        AND other.started_at >= date_bin(%(part)s::interval, own.started_at, timestamptz '2000-01-01')
)
""")


def is_first_of_its_name(connection: psycopg.Connection[Any], worker_id: UUID, part: timedelta) -> bool:
    """Returns whether no other worker of the same name has started before it in the same part of the time, such as the
    same five minutes of the clock."""
    row = connection.execute(FIRST_OF_ITS_NAME, {"worker": worker_id, "part": part}).fetchone()
    return bool(row and row[0])


# Index: the primary key of pgonly_worker; pgonly_worker is small.
FORGET = qualified("""
DELETE FROM pgonly_worker WHERE id IN (
    SELECT id FROM pgonly_worker WHERE heartbeat_at < clock_timestamp() - %(older_than)s::interval
        AND (%(stopped_named)s::text IS NULL OR name = %(stopped_named)s::text AND stopped_at IS NOT NULL)
    FOR UPDATE SKIP LOCKED
)
""")


def forget(
    connection: psycopg.Connection[Any], older_than: timedelta, stopped_named: str | None = None
) -> int:
    """Deletes the rows of workers whose last heartbeat is older than this; with `stopped_named` only the rows of
    stopped workers of this name. `heartbeat_at` counts, not `stopped_at`: a tick that fell silent and was then marked
    as stopped goes at once. Returns how many rows it has deleted."""
    return connection.execute(FORGET, {"older_than": older_than, "stopped_named": stopped_named}).rowcount


# Index: the primary key, twice (for "state || ''" see queue/finish.py). A row that another transaction has locked is
# skipped, reported as held and renewed next time; rescue skips it as well.
RENEW = qualified("""
WITH mine AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(lease_epochs)s::int[], %(unwritten)s::bool[])
        AS m(id, lease_epoch, unwritten)
),
free AS MATERIALIZED (
    SELECT job.id FROM pgonly_job AS job JOIN mine ON job.id = mine.id AND job.lease_epoch = mine.lease_epoch
    WHERE job.state || '' = 'running' AND NOT mine.unwritten FOR NO KEY UPDATE OF job SKIP LOCKED
),
renewed AS (
    UPDATE pgonly_job SET lease_expires_at = clock_timestamp() + %(lease_for)s::interval
    WHERE id = ANY (ARRAY (SELECT id FROM free)) RETURNING id
)
SELECT job.id::text, job.cancel_requested_at IS NOT NULL, EXISTS (SELECT FROM renewed WHERE renewed.id = job.id)
FROM pgonly_job AS job JOIN mine ON job.id = mine.id AND job.lease_epoch = mine.lease_epoch
WHERE job.state || '' = 'running'
""")


class Renewal(NamedTuple):
    cancel_requested: bool
    renewed: bool


def renew(
    connection: psycopg.Connection[Any],
    held: Mapping[str, int],
    lease_for: timedelta,
    unwritten: Container[str] = (),
) -> dict[str, Renewal]:
    """Renews the leases in `held` (id -> lease_epoch). A job that is missing from the answer is lost. The rows of the
    jobs in `unwritten` are read only; those jobs are safe while their worker's heartbeat is fresh."""
    if not held:
        return {}
    parameters = {
        "ids": list(held),
        "lease_epochs": list(held.values()),
        "unwritten": [job_id in unwritten for job_id in held],
        "lease_for": lease_for,
    }
    rows = connection.execute(RENEW, parameters, prepare=True)
    return {job_id: Renewal(cancel, renewed) for job_id, cancel, renewed in rows}


# Index: pgonly_job_running (all running rows are few).
CLAIMED_BY = qualified(
    "SELECT id::text, lease_epoch FROM pgonly_job WHERE state = 'running' AND worker_id = %(worker)s"
)


def claimed_by(connection: psycopg.Connection[Any], worker_id: UUID) -> dict[str, int]:
    """Returns all jobs that run in this worker's name (id -> lease_epoch), whether or not it knows of them."""
    return dict(connection.execute(CLAIMED_BY, {"worker": worker_id}, prepare=True).fetchall())


# Index: the primary key.
CANCEL_REQUESTED = qualified("""
SELECT id::text FROM pgonly_job
WHERE id = ANY (%(ids)s::uuid[]) AND state || '' = 'running' AND cancel_requested_at IS NOT NULL
""")


def cancel_requested(connection: psycopg.Connection[Any], ids: list[str]) -> list[str]:
    """Returns those of the running jobs `ids` whose cancellation a person has requested."""
    return [job_id for (job_id,) in connection.execute(CANCEL_REQUESTED, {"ids": ids}, prepare=True)]
