"""The runs that have ended since midnight (UTC), per queue and task: numbers that only grow until the next midnight.

They are counters for a program that compares two of its readings. A sum over a sliding window, or over all rows that
are kept, falls when rows leave it, and such a program takes that for a new beginning. Here there is one a day, at
which a new count does begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db import connections

from pgonly_django.models.job_stats import BUCKETS
from pgonly_django.tables import qualified

PAIRS_AT_MOST = 100  # of a queue and a task
# Rows that are read: to find these pairs, and to count all others. A row is one pair in one hour.
EARLIEST_AT_MOST, COUNTED_AT_MOST = 10_000, 30_000


class Runs(NamedTuple):
    """Of one task from one queue. Buckets as in models/job_stats.py."""

    queue: str
    task: str  # "", as the queue: all pairs beyond the cap together
    succeeded: int
    failed: int
    retried: int
    interrupted: int
    crashed: int
    waiting_times: Sequence[int] = ()  # none for the tasks beyond the cap
    run_times: Sequence[int] = ()


class RunsToday(NamedTuple):
    runs: list[Runs]
    left_out: int  # pairs without an entry; of the COUNTED_AT_MOST rows


_MIDNIGHT = "date_bin(interval '1 day', statement_timestamp(), timestamptz '2000-01-01 00:00+00')"
_NUMBERS = ("succeeded", "failed", "retried", "interrupted", "crashed")
_LISTED = ", ".join(_NUMBERS)


def _sum(column: str) -> str:
    return f"coalesce(sum({column}), 0)::int8"


def _sums(column: str) -> str:
    return f"ARRAY[{', '.join(_sum(f'{column}[{number}]') for number in range(1, BUCKETS + 1))}]"


# Index: pgonly_job_stats_once. The pairs with an entry are those that were seen first since yesterday, and no others
# take their place during a day: their numbers would fall. A pair of yesterday has its zeros, so that its first run of
# today is an increase. Their rows are found by 24 descents for each. What all others did is the sum of today's rows
# without theirs. Hours are read one after the other (OFFSET 0): PostgreSQL does not know that the last are few rows.
RUNS = qualified(f"""
WITH hours(starts_at) AS MATERIALIZED (
    SELECT generate_series({_MIDNIGHT}, statement_timestamp(), interval '1 hour')
),
earliest AS MATERIALIZED (
    SELECT queue, task, starts_at, id FROM pgonly_job_stats
    WHERE granularity = 'hour' AND starts_at >= {_MIDNIGHT} - interval '1 day'
    ORDER BY starts_at, queue, task LIMIT {EARLIEST_AT_MOST}
),
named AS MATERIALIZED (
    SELECT queue, task FROM earliest WHERE task <> ''
    GROUP BY queue, task ORDER BY min(starts_at), min(id) LIMIT {PAIRS_AT_MOST}
),
counted AS MATERIALIZED (
    SELECT named.queue, named.task, sums.* FROM named CROSS JOIN LATERAL (
        SELECT {", ".join(f"{_sum(name)} AS {name}" for name in _NUMBERS)},
            {_sums("waiting_times")} AS waiting, {_sums("run_times")} AS run
        FROM hours CROSS JOIN LATERAL (
            SELECT {_LISTED}, waiting_times, run_times FROM pgonly_job_stats AS stats
            WHERE granularity = 'hour' AND stats.starts_at = hours.starts_at
                AND stats.queue = named.queue AND stats.task = named.task LIMIT 1
        ) AS of_hour
    ) AS sums
),
today AS MATERIALIZED (
    SELECT of_hour.* FROM hours CROSS JOIN LATERAL (
        SELECT queue, task, {_LISTED} FROM pgonly_job_stats AS stats
        WHERE granularity = 'hour' AND stats.starts_at = hours.starts_at OFFSET 0
    ) AS of_hour LIMIT {COUNTED_AT_MOST + 1}
)
SELECT queue, task, {_LISTED}, waiting, run, 0, 0 FROM counted
UNION ALL
SELECT '', '', {", ".join(f"{_sum(name)} - (SELECT {_sum(name)} FROM counted)" for name in _NUMBERS)}, NULL, NULL,
    (SELECT count(*) FROM (SELECT queue, task FROM today EXCEPT SELECT queue, task FROM named) AS others), count(*)
FROM today
""")


def runs_today(alias: str) -> RunsToday:
    """One entry for each pair of a queue and a task that ran today or yesterday, in UTC, PAIRS_AT_MOST; and one, last,
    for all others, unless today has more than COUNTED_AT_MOST rows. It lags by 15 s, since workers write that often."""
    with connections[alias].cursor() as cursor:
        cursor.execute(RUNS)
        *rows, others = cursor.fetchall()
    runs = [Runs._make(row[:9]) for row in rows]
    runs.sort(key=lambda each: (each.queue, each.task))
    *numbers, _, _, left_out, read = others
    if left_out and read <= COUNTED_AT_MOST:
        runs.append(Runs._make((*numbers, (), ())))
    return RunsToday(runs, left_out)
