"""Statistics that outlast their jobs: counts and histograms per queue and task, by minute and hour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import psycopg

from pgonly_django.models.job import State
from pgonly_django.models.job_stats import NUMBERS, STATS_KEPT, Counts
from pgonly_django.queue.rescue import Rescued
from pgonly_django.tables import qualified


@dataclass(slots=True, kw_only=True)
class RunCounts(Counts):
    """The counts of one task from one queue: columns of pgonly_job_stats."""

    queue: str
    task: str
    waiting_times: list[int] = field(default_factory=list)
    run_times: list[int] = field(default_factory=list)


TIME_ARRAYS = ("waiting_times", "run_times")


def counts_of_rescued(rescued: Iterable[Rescued]) -> list[RunCounts]:
    """Returns the counts that a rescue has found: runs whose worker died, and jobs that failed by that."""
    counted: dict[tuple[str, str], RunCounts] = {}
    for job in rescued:
        counts = counted.setdefault((job.queue, job.task), RunCounts(queue=job.queue, task=job.task))
        if job.was_stopped:
            counts.interrupted += 1
        else:
            counts.crashed += 1
            counts.failed += job.state == State.FAILED
    return list(counted.values())


# As '{1,2}', which unnest() makes no rows of.
_ARRAYS = {
    "queue": "text",
    "task": "text",
    **dict.fromkeys(NUMBERS, "int8"),
    **dict.fromkeys(TIME_ARRAYS, "text"),
}
_COLUMNS = ", ".join(_ARRAYS)
_ADDED = [f"{name} = stats.{name} + excluded.{name}" for name in NUMBERS]
_ADDED += [
    f"""{name} = ARRAY (SELECT coalesce(own, 0) + coalesce(added, 0)
        FROM unnest(stats.{name}, excluded.{name}) WITH ORDINALITY AS bucket(own, added, number) ORDER BY number)"""
    for name in TIME_ARRAYS
]

# Index: pgonly_job_stats_once. The rows come in its order, so that no two workers wait for each other. The database's
# clock says which minute it is.
ADD = qualified(f"""
INSERT INTO pgonly_job_stats AS stats (granularity, starts_at, {_COLUMNS})
SELECT part.granularity, date_bin(part.width, statement_timestamp(), timestamptz '2000-01-01 00:00+00'),
    queue, task, {", ".join(NUMBERS)}, {", ".join(f"{name}::int[]" for name in TIME_ARRAYS)}
FROM unnest({", ".join(f"%({name})s::{kind}[]" for name, kind in _ARRAYS.items())}) AS counted({_COLUMNS})
CROSS JOIN (VALUES ('minute', interval '1 minute'), ('hour', interval '1 hour')) AS part(granularity, width)
ORDER BY 1, 2, queue, task
ON CONFLICT (granularity, starts_at, queue, task) DO UPDATE SET {", ".join(_ADDED)}
""")


def add(connection: psycopg.Connection[Any], counted: Iterable[RunCounts]) -> None:
    """Adds the counts to the present minute and hour, with one statement."""
    rows = sorted(counted, key=attrgetter("queue", "task"))
    parameters: dict[str, Any] = {
        "queue": [each.queue for each in rows],
        "task": [each.task for each in rows],
        **{name: _array(getattr(each, name) for each in rows) for name in NUMBERS},
        **{name: [_array(_without_zeros(getattr(each, name))) for each in rows] for name in TIME_ARRAYS},
    }
    connection.execute(ADD, parameters, prepare=True)


def _array(numbers: Iterable[int]) -> str:
    """Returns the array as text: psycopg's own type of a list depends on its largest number, and each has its own
    plan."""
    return f"{{{','.join(map(str, numbers))}}}"


def _without_zeros(histogram: list[int]) -> list[int]:
    """Returns the list without the zeros at its end."""
    last = len(histogram)
    while last and not histogram[last - 1]:
        last -= 1
    return histogram[:last]


BATCH = 1000

# Index: pgonly_job_stats_once, the primary key. An array, which is read once: PostgreSQL may run a subquery of IN again
# for each row, and delete more than its limit. With a parameter as its limit the planner would read the whole table.
PRUNE = qualified(f"""
DELETE FROM pgonly_job_stats WHERE id = ANY (ARRAY (
    SELECT id FROM pgonly_job_stats
    WHERE granularity = %(granularity)s AND starts_at < statement_timestamp() - %(older_than)s::interval
    ORDER BY starts_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED
))
""")


def prune(connection: psycopg.Connection[Any]) -> int:
    """Deletes rows that are older than STATS_KEPT says, of each granularity a BATCH at most. Returns how many rows of
    one granularity it has deleted at most: if these are fewer than a BATCH, no more are left."""
    counts = [
        connection.execute(PRUNE, {"granularity": name, "older_than": age}).rowcount
        for name, age in STATS_KEPT.items()
    ]
    return max(counts)
