"""Makes failed jobs run again: a batch in one statement, each at its own time and with its own arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db import IntegrityError, connections, transaction

from pgonly_django.tables import qualified

# Index: the primary key (for "state || ''" see queue/finish.py). What it takes back is what JobQuerySet.retry() takes
# back. What is NULL in the arrays stays as it is in the row.
REDRIVE = qualified("""
UPDATE pgonly_job AS job SET
    state = CASE WHEN again.delay > 0 THEN 'scheduled' ELSE 'ready' END,
    run_at = CASE WHEN again.delay > 0 THEN clock_timestamp() + make_interval(secs => again.delay) ELSE job.run_at END,
    ready_at = clock_timestamp(), ready_again_at = NULL,
    args = coalesce(again.args::jsonb, job.args),
    kwargs = coalesce(again.kwargs::jsonb, job.kwargs),
    concurrency_key = coalesce(again.concurrency_key, job.concurrency_key),
    unique_key = coalesce(again.unique_key, job.unique_key),
    attempt = 0, crashes = 0, result = NULL, held_by = NULL, cancel_requested_at = NULL, finished_at = NULL,
    expires_at = NULL, dead_lettered_at = NULL
FROM unnest(%(ids)s::uuid[], %(delays)s::float8[], %(args)s::text[], %(kwargs)s::text[], %(concurrency_keys)s::text[],
    %(unique_keys)s::text[]) AS again(id, delay, args, kwargs, concurrency_key, unique_key)
WHERE job.id = again.id AND job.state || '' = 'failed'
RETURNING job.id::text
""")


class Again(NamedTuple):
    """One job: in how many seconds it runs, and with which arguments (JSON), where they change."""

    id: str
    delay_seconds: float
    args: str | None = None
    kwargs: str | None = None
    concurrency_key: str | None = None
    unique_key: str | None = None


def redrive_batch(alias: str, batch: Sequence[Again]) -> list[str]:
    """The ids of those that run again, in the caller's transaction. The others are not failed any more, or another job
    has their unique_key."""
    try:
        with transaction.atomic(using=alias):
            return _update(alias, batch)
    except IntegrityError:
        if len(batch) == 1:
            return []
        return [job_id for each in batch for job_id in redrive_batch(alias, [each])]


def _update(alias: str, batch: Sequence[Again]) -> list[str]:
    columns = dict(zip(PARAMETERS, map(list, zip(*batch, strict=True)), strict=True))
    with connections[alias].cursor() as cursor:
        cursor.execute(REDRIVE, columns)
        return [job_id for (job_id,) in cursor.fetchall()]


PARAMETERS = ("ids", "delays", "args", "kwargs", "concurrency_keys", "unique_keys")
