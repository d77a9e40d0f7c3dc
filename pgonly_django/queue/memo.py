"""The durable memory of a job: its checkpoint and its steps, written on the caller's own Django connection.

So inside atomic() they commit together with the rows they describe. Every write locks the job row FOR KEY SHARE
and checks its lease: a heartbeat passes that lock, a rescue does not, and a run that was declared dead writes
nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from django.db import connections

from pgonly_django.exceptions import LeaseLost

# Index: the primary keys.
SAVE_CHECKPOINT = """
INSERT INTO pgonly_checkpoint (job_id, value, positions, saved_at)
SELECT job.id, %s::jsonb, %s::jsonb, clock_timestamp() FROM pgonly_job AS job
WHERE job.id = %s AND job.lease = %s AND job.state = 'running' FOR KEY SHARE
ON CONFLICT (job_id) DO UPDATE
    SET value = excluded.value, positions = excluded.positions, saved_at = excluded.saved_at
"""
LOAD_CHECKPOINT = "SELECT value::text, positions::text FROM pgonly_checkpoint WHERE job_id = %s"

# Index: pgonly_step_once (job, name).
FIND_STEP = "SELECT result::text FROM pgonly_step WHERE job_id = %s AND name = %s"
SAVE_STEP = """
INSERT INTO pgonly_step (job_id, name, result, finished_at)
SELECT job.id, %s, %s::jsonb, clock_timestamp() FROM pgonly_job AS job
WHERE job.id = %s AND job.lease = %s AND job.state = 'running' FOR KEY SHARE
ON CONFLICT (job_id, name) DO NOTHING
"""


@dataclass(slots=True)
class Saved:
    """What a checkpoint row holds: the job's own value, and how far each iterate() came."""

    value: Any = None
    positions: dict[str, int] = field(default_factory=dict)


def load_checkpoint(alias: str, job_id: str) -> Saved:
    with connections[alias].cursor() as cursor:
        cursor.execute(LOAD_CHECKPOINT, [job_id])
        row = cursor.fetchone()
    if row is None:
        return Saved()
    return Saved(json.loads(row[0]) if row[0] is not None else None, json.loads(row[1]))


def save_checkpoint(alias: str, job_id: str, lease: int, value: str, positions: str) -> None:
    """Write the checkpoint (JSON texts). Raises LeaseLost when the job belongs to another run by now."""
    with connections[alias].cursor() as cursor:
        cursor.execute(SAVE_CHECKPOINT, [value, positions, job_id, lease])
        if cursor.rowcount == 0:
            raise LeaseLost


def find_step(alias: str, job_id: str, name: str) -> tuple[Any] | None:
    """The result of a finished step as a 1-tuple, None when there is none."""
    with connections[alias].cursor() as cursor:
        cursor.execute(FIND_STEP, [job_id, name])
        row = cursor.fetchone()
    if row is None:
        return None
    return (json.loads(row[0]) if row[0] is not None else None,)


def save_step(alias: str, job_id: str, lease: int, name: str, result: str) -> None:
    """Keep the result of a step (JSON text). The first writer wins. Raises LeaseLost as save_checkpoint()."""
    with connections[alias].cursor() as cursor:
        cursor.execute(SAVE_STEP, [name, result, job_id, lease])
        saved = cursor.rowcount
    if saved == 0 and find_step(alias, job_id, name) is None:
        raise LeaseLost
