"""The health of the queue: how long jobs wait, and how many fail. Nothing here reads the whole table of jobs. What
would need that is answered from the newest rows, as each function says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from pgonly_django.database.on_django import all_rows
from pgonly_django.models import Queue, Worker
from pgonly_django.models.job_rows import WAITING_SINCE
from pgonly_django.queue.candidates import FIRST_BY_KEY, LIMITED_ROW, READY_ROW, SUSPECT_ROW
from pgonly_django.queue.claim import BANDS_OF_ALL, BANDS_OF_GIVEN
from pgonly_django.queue.known_names import KNOWN_QUEUES, known_names
from pgonly_django.tables import qualified

SAMPLE = 1000  # rows of each kind
FAILED_SAMPLE = 5000
FIRST = 20  # of a band


def unknown_queues(alias: str, queues: Sequence[str]) -> list[str]:
    """Returns queues without a worker by name, a row, or a job that known_names() finds: usually typing errors."""
    served = Worker.objects.using(alias).values_list("queues", flat=True)
    known = {name for names in served for name in names}
    known |= set(Queue.objects.using(alias).filter(name__in=queues).values_list("name", flat=True))
    known |= set(known_names(alias, KNOWN_QUEUES))
    return [name for name in queues if name not in known]


_AGE = "date_part('epoch', clock_timestamp()) - date_part('epoch', {since})"
_HEAD = "queue, priority, concurrency_key, since, id"
_KEY_HEAD = f"queue, priority, concurrency_key, {WAITING_SINCE} AS since, id"
_BY_BAND = "ORDER BY queue, priority DESC, concurrency_key, ready_at, id LIMIT 1"
_OF_READY_BAND = f"{READY_ROW} AND queue = bands.queue AND priority = bands.priority"
_OF_BAND = f"{LIMITED_ROW} AND queue = heads.queue AND priority = heads.priority"
# The next of the same band, then of the same queue, then of the next queue.
_NEXT_HEAD = qualified(f"""
        (SELECT {_KEY_HEAD} FROM pgonly_job WHERE {_OF_BAND} AND concurrency_key > heads.concurrency_key {FIRST_BY_KEY})
        UNION ALL
        (SELECT {_KEY_HEAD} FROM pgonly_job WHERE {_OF_BAND} AND concurrency_key IS NULL
             AND heads.concurrency_key IS NOT NULL {FIRST_BY_KEY})
        UNION ALL
        (SELECT {_KEY_HEAD} FROM pgonly_job
         WHERE {LIMITED_ROW} AND queue = heads.queue AND priority < heads.priority {_BY_BAND})""")
_FIRST_OF_ALL = qualified(f"(SELECT {_KEY_HEAD} FROM pgonly_job WHERE {LIMITED_ROW} {_BY_BAND})")
_NEXT_QUEUE = qualified(f"""
        UNION ALL
        (SELECT {_KEY_HEAD} FROM pgonly_job WHERE {LIMITED_ROW} AND queue > heads.queue {_BY_BAND})""")
_FIRST_OF_GIVEN = qualified(f"""SELECT first.* FROM unnest(%(queues)s::text[]) AS given(queue) CROSS JOIN LATERAL (
        SELECT {_KEY_HEAD} FROM pgonly_job WHERE {LIMITED_ROW} AND queue = given.queue {_BY_BAND}) AS first""")

# A job that has kept its place stands before those that wait longer, so some jobs of each band are read. The first job
# of each key is enough. Index: pgonly_job_ready, the first 20 of each band; pgonly_job_limited, one for each key, 1,000
# at most; pgonly_job_suspect and pgonly_job_scheduled, the first 1,000 entries; pgonly_queue is small. Epochs are
# subtracted and not times: before PostgreSQL 17 one that is infinite would raise an error.
_WAITING = qualified(f"""
WITH RECURSIVE bands(queue, priority) AS ({{bands}}),
heads({_HEAD}) AS (
    {{first}}
    UNION ALL
    SELECT next.* FROM heads CROSS JOIN LATERAL ({_NEXT_HEAD}{{next_queue}}
        LIMIT 1
    ) AS next
),
waiting(queue, since, id) AS (
    SELECT bands.queue, first.since, first.id FROM bands CROSS JOIN LATERAL (
        SELECT since, id FROM (SELECT {WAITING_SINCE} AS since, id FROM pgonly_job WHERE {_OF_READY_BAND}
            ORDER BY ready_at, id LIMIT {FIRST}) AS first ORDER BY since LIMIT 1
    ) AS first
    UNION ALL
    (SELECT queue, since, id FROM heads LIMIT {SAMPLE})
    UNION ALL
    (SELECT queue, {WAITING_SINCE}, id FROM pgonly_job WHERE {SUSPECT_ROW} ORDER BY ready_at LIMIT {SAMPLE})
    UNION ALL
    (SELECT queue, run_at, NULL::uuid FROM pgonly_job WHERE state = 'scheduled' AND run_at <= statement_timestamp()
     ORDER BY run_at LIMIT {SAMPLE})
)""")
OLDEST = qualified(f"""{_WAITING}
SELECT queue, {_AGE.format(since="since")}, id FROM waiting
WHERE (%(with_paused)s OR queue <> ALL (ARRAY (SELECT name FROM pgonly_queue WHERE paused_at IS NOT NULL))){{only}}
ORDER BY since LIMIT 1
""")
_OF_ALL = {
    "bands": BANDS_OF_ALL.format(row=READY_ROW, bands="bands"),
    "first": _FIRST_OF_ALL,
    "next_queue": _NEXT_QUEUE,
}
OLDEST_OF_ALL = qualified(OLDEST.format(**_OF_ALL, only=""))
OLDEST_OF_GIVEN = qualified(
    OLDEST.format(
        bands=BANDS_OF_GIVEN.format(row=READY_ROW, bands="bands", queues="%(queues)s::text[]"),
        first=_FIRST_OF_GIVEN,
        next_queue="",
        only=" AND queue = ANY (%(queues)s::text[])",
    )
)


class OldestJob(NamedTuple):
    seconds: float
    queue: str
    job_id: UUID | None  # None of a scheduled job that is overdue


def oldest_waiting(alias: str, queues: Sequence[str] = (), *, with_paused: bool = False) -> OldestJob | None:
    """Returns the job that has waited longest since it became ready, or was due; also one that waits for a limit. Jobs
    of a paused queue wait for a person, and are left out unless `with_paused`."""
    parameters = {"queues": list(queues), "with_paused": with_paused}
    rows = all_rows(alias, OLDEST_OF_GIVEN if queues else OLDEST_OF_ALL, parameters)
    return next((OldestJob(_seconds(seconds), queue, job_id) for queue, seconds, job_id in rows), None)


# As above; the age of the oldest row of each queue.
OLDEST_PER_QUEUE = qualified(
    f"""{_WAITING.format(**_OF_ALL)}
SELECT queue, max({_AGE.format(since="since")}) FROM waiting GROUP BY queue"""
)


def oldest_per_queue(alias: str) -> dict[str, float]:
    """Returns the seconds that the oldest job of each queue has waited since it was ready or due; paused queues too."""
    return {queue: _seconds(seconds) for queue, seconds in all_rows(alias, OLDEST_PER_QUEUE)}


_STARTED = qualified(f"SELECT id, queue, {WAITING_SINCE} AS since, attempted_at FROM pgonly_job")
_WAITED = "date_part('epoch', attempted_at) - date_part('epoch', since)"
# Index: pgonly_job_running and, twice, the primary key: 1,000 rows of each. Ids ascend with the time of the enqueue.
LATENCY = qualified(f"""
WITH sampled AS (
    ({_STARTED} WHERE state = 'running' LIMIT {SAMPLE})
    UNION
    ({_STARTED} ORDER BY id DESC LIMIT {SAMPLE})
    UNION
    ({_STARTED} WHERE id < %(before)s::uuid ORDER BY id DESC LIMIT {SAMPLE})
)
SELECT count(*), percentile_disc(0.5) WITHIN GROUP (ORDER BY {_WAITED}),
    percentile_disc(0.95) WITHIN GROUP (ORDER BY {_WAITED}), max({_WAITED})
FROM sampled
WHERE attempted_at >= statement_timestamp() - %(within)s::interval AND attempted_at >= since
    AND (%(queues)s::text[] = '{{}}' OR queue = ANY (%(queues)s::text[]))
""")


class Latency(NamedTuple):
    jobs: int
    p50_seconds: float
    p95_seconds: float
    longest_seconds: float


def latency(
    alias: str, within: timedelta, queues: Sequence[str] = (), before: UUID | None = None
) -> Latency | None:
    """Returns how long jobs waited whose run began `within` that time: those that run, the 1,000 that were enqueued
    last, and the 1,000 before the job `before`, which has to be the oldest that waits. Returns None if no run began."""
    parameters = {"within": within, "queues": list(queues), "before": before}
    ((count, *seconds),) = all_rows(alias, LATENCY, parameters)
    return Latency(count, *map(_seconds, seconds)) if count else None


# Index: pgonly_job_failed, the newest 5,000.
FAILURES = qualified(f"""
WITH newest AS (
    SELECT queue, finished_at FROM pgonly_job WHERE state = 'failed'
    ORDER BY finished_at DESC, id DESC LIMIT {FAILED_SAMPLE}
)
SELECT count(*) FROM newest
WHERE finished_at >= statement_timestamp() - %(within)s::interval
    AND (%(queues)s::text[] = '{{}}' OR queue = ANY (%(queues)s::text[]))
""")


def failures(alias: str, within: timedelta, queues: Sequence[str] = ()) -> int:
    """Returns how many jobs failed permanently `within` that time, of the 5,000 that failed last."""
    ((count,),) = all_rows(alias, FAILURES, {"within": within, "queues": list(queues)})
    return int(count)


def _seconds(value: float) -> float:
    """Returns seconds that are never below zero, for clocks that were set back, and never infinite, for JSON."""
    return max(value, 0.0) if math.isfinite(value) else 0.0
