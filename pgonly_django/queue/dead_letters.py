"""Finds failed jobs whose dead letter is still to be sent, and marks those whose letter is enqueued."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connections

from pgonly_django.tables import qualified

# The rows of pgonly_job_dead_letter.
UNSENT_ROW = "dead_letter_queue IS NOT NULL AND state = 'failed' AND dead_lettered_at IS NULL"

# Index: pgonly_job_dead_letter, one range of it. Of two workers that look at once each gets other rows.
UNSENT = qualified(f"""
SELECT id::text, metadata::text
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


def unsent(alias: str, queue: str, limit: int) -> dict[str, str | None]:
    """The ids of the oldest, whose rows are locked until the caller's transaction ends, with their metadata."""
    with connections[alias].cursor() as cursor:
        cursor.execute(UNSENT, {"queue": queue, "limit": limit})
        return dict(cursor.fetchall())


def mark_sent(alias: str, ids: Iterable[str]) -> None:
    """In the transaction that enqueues their letters, so that either both are done or neither."""
    with connections[alias].cursor() as cursor:
        cursor.execute(MARK, {"ids": list(ids)})


def queues_with_unsent(alias: str) -> list[str]:
    with connections[alias].cursor() as cursor:
        cursor.execute(QUEUES)
        return [queue for (queue,) in cursor.fetchall()]
