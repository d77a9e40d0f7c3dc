"""What happens after a job has failed: its dead letter, and the redrive, by which a person has it run again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import IntegrityError, connections, transaction

from pgonly_django.database.on_django import all_rows
from pgonly_django.models.job import FROM_THE_START
from pgonly_django.models.job_rows import IS_UNSENT
from pgonly_django.queue.candidates import changes_of, condition_of
from pgonly_django.queue.carried import IN_DEAD_LETTER
from pgonly_django.queue.enqueue import KEY_COLUMNS
from pgonly_django.tables import qualified

# The rows of pgonly_job_dead_letter.
UNSENT_ROW = condition_of(IS_UNSENT)

# Index: pgonly_job_dead_letter, one range of it. Two workers that look at once get different rows.
UNSENT = qualified(f"""
SELECT id::text, {", ".join(f"{name}::text" for name in IN_DEAD_LETTER)}
FROM pgonly_job WHERE {UNSENT_ROW} AND dead_letter_queue = %(queue)s
ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
""")
# Index: the primary key.
MARK = qualified("""
UPDATE pgonly_job SET dead_lettered_at = clock_timestamp() WHERE id = ANY (%(ids)s::uuid[])
""")
# Index: pgonly_job_dead_letter, one probe for each queue.
QUEUES = qualified(f"""
WITH RECURSIVE unsent(queue) AS (
    (SELECT dead_letter_queue FROM pgonly_job WHERE {UNSENT_ROW} ORDER BY dead_letter_queue LIMIT 1)
    UNION ALL
    SELECT (SELECT job.dead_letter_queue FROM pgonly_job AS job
            WHERE {UNSENT_ROW} AND job.dead_letter_queue > unsent.queue ORDER BY job.dead_letter_queue LIMIT 1)
    FROM unsent WHERE unsent.queue IS NOT NULL
)
SELECT queue FROM unsent WHERE queue IS NOT NULL
""")


def unsent(alias: str, queue: str, limit: int) -> dict[str, dict[str, str]]:
    """Returns the ids of the oldest, whose rows are locked until the caller's transaction ends, with what their letters
    carry."""
    rows = all_rows(alias, UNSENT, {"queue": queue, "limit": limit})
    return {
        job_id: {name: text for name, text in zip(IN_DEAD_LETTER, texts, strict=True) if text is not None}
        for job_id, *texts in rows
    }


def mark_sent(alias: str, ids: Iterable[str]) -> None:
    """Marks jobs in the transaction that enqueues their letters, so that either both are done or neither."""
    with connections[alias].cursor() as cursor:
        cursor.execute(MARK, {"ids": list(ids)})


def queues_with_unsent(alias: str) -> list[str]:
    return [queue for (queue,) in all_rows(alias, QUEUES)]


# Index: the primary key.
WRITE_CALLS = qualified(f"""
UPDATE pgonly_job AS job SET {", ".join(f"{name} = call.{name}" for name in ("args", "kwargs", *KEY_COLUMNS))}
FROM json_populate_recordset(NULL::pgonly_job, %(calls)s::json) AS call WHERE job.id = call.id
""")
# Index: the primary key (for "state || ''" see queue/finish.py).
REDRIVE = qualified(f"""
UPDATE pgonly_job AS job SET
    state = CASE WHEN again.delay > 0 THEN 'scheduled' ELSE 'ready' END,
    run_at = CASE WHEN again.delay > 0 THEN clock_timestamp() + make_interval(secs => again.delay) ELSE job.run_at END,
    {changes_of(FROM_THE_START)}
FROM unnest(%(ids)s::uuid[], %(delays)s::float8[]) AS again(id, delay)
WHERE job.id = again.id AND job.state || '' = 'failed'
RETURNING job.id::text
""")


class Again(NamedTuple):
    """A job to run again: in how many seconds, and, if its call changes, all columns of the call as JSON has them."""

    id: str
    delay_seconds: float
    call: Mapping[str, Any] | None = None


def redrive_batch(alias: str, batch: Sequence[Again]) -> list[str]:
    """Lets failed jobs run again, in the caller's transaction, and returns their ids. It leaves out jobs that are no
    longer failed, and jobs whose unique_key another job has."""
    try:
        with transaction.atomic(using=alias):
            return _update(alias, batch)
    except IntegrityError:
        if len(batch) == 1:
            return []
        return [job_id for each in batch for job_id in redrive_batch(alias, [each])]


def _update(alias: str, batch: Sequence[Again]) -> list[str]:
    if calls := [{"id": each.id, **each.call} for each in batch if each.call is not None]:
        with connections[alias].cursor() as cursor:
            cursor.execute(WRITE_CALLS, {"calls": json.dumps(calls)})
    times = {"ids": [each.id for each in batch], "delays": [each.delay_seconds for each in batch]}
    return [job_id for (job_id,) in all_rows(alias, REDRIVE, times)]
