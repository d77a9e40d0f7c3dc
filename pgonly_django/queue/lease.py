"""The leases of running jobs. A worker renews its own by a list of (id, lease_epoch), so a job that another worker has
claimed since is left alone."""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from pgonly_django.tables import qualified

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
    """Renew the leases in `held` (id -> lease_epoch). A job that is missing from the answer is lost. The rows of the
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
    """All jobs that run in this worker's name (id -> lease_epoch), whether or not it knows of them."""
    return dict(connection.execute(CLAIMED_BY, {"worker": worker_id}, prepare=True).fetchall())


# Index: the primary key.
CANCEL_REQUESTED = qualified("""
SELECT id::text FROM pgonly_job
WHERE id = ANY (%(ids)s::uuid[]) AND state || '' = 'running' AND cancel_requested_at IS NOT NULL
""")


def cancel_requested(connection: psycopg.Connection[Any], ids: list[str]) -> list[str]:
    """Those of the running jobs `ids` that a person wants cancelled."""
    return [job_id for (job_id,) in connection.execute(CANCEL_REQUESTED, {"ids": ids}, prepare=True)]
