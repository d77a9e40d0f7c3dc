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
    left_out: int  # pairs that are counted together, since they are beyond the cap


_MIDNIGHT = "date_bin(interval '1 day', statement_timestamp(), timestamptz '2000-01-01 00:00+00')"
_NUMBERS = ("succeeded", "failed", "retried", "interrupted", "crashed")


def _of_today(column: str) -> str:
    return f"coalesce(sum({column}) FILTER (WHERE starts_at >= {_MIDNIGHT}), 0)::int8 AS {column}"


def _sums(column: str) -> str:
    return f"ARRAY[{', '.join(f'coalesce(sum({column}[{number}]), 0)::int8' for number in range(1, BUCKETS + 1))}]"


# Index: pgonly_job_stats_once, the rows of two days, one hour after the other (OFFSET 0): PostgreSQL does not know that
# these are few. The histograms only of the pairs that have a line of their own, 24 descents for each. Those are the
# pairs that were seen first since yesterday, and no others take their place during a day: their number would fall.
# A pair of yesterday has its zeros, so that its first run of today is an increase.
RUNS = qualified(f"""
WITH hours(starts_at) AS MATERIALIZED (
    SELECT generate_series({_MIDNIGHT} - interval '1 day', statement_timestamp(), interval '1 hour')
),
pairs AS MATERIALIZED (
    SELECT queue, task, row_number() OVER (ORDER BY task = '', min(id)) AS number, {", ".join(map(_of_today, _NUMBERS))}
    FROM hours CROSS JOIN LATERAL (
        SELECT id, queue, task, {", ".join(_NUMBERS)} FROM pgonly_job_stats AS stats
        WHERE granularity = 'hour' AND stats.starts_at = hours.starts_at OFFSET 0
    ) AS of_hour
    GROUP BY queue, task
)
SELECT queue, task, {", ".join(_NUMBERS)}, times.waiting, times.run, 1
FROM pairs CROSS JOIN LATERAL (
    SELECT {_sums("waiting_times")} AS waiting, {_sums("run_times")} AS run
    FROM hours CROSS JOIN LATERAL (
        SELECT waiting_times, run_times FROM pgonly_job_stats AS stats
        WHERE granularity = 'hour' AND stats.starts_at = hours.starts_at
            AND stats.queue = pairs.queue AND stats.task = pairs.task LIMIT 1
    ) AS of_hour WHERE hours.starts_at >= {_MIDNIGHT}
) AS times
WHERE number <= {PAIRS_AT_MOST} AND task <> ''
UNION ALL
SELECT '', '', {", ".join(f"sum({name})::int8" for name in _NUMBERS)}, NULL, NULL, count(*)
FROM pairs WHERE number > {PAIRS_AT_MOST} OR task = ''
HAVING count(*) > 0
""")


def runs_today(alias: str) -> RunsToday:
    """One entry for each pair of a queue and a task that ran today or yesterday, in UTC, PAIRS_AT_MOST; and one, last,
    for all others. It lags by 15 s, since workers write that often."""
    with connections[alias].cursor() as cursor:
        cursor.execute(RUNS)
        rows = cursor.fetchall()
    runs = [Runs._make((*numbers, waited or (), took or ())) for *numbers, waited, took, _ in rows]
    runs.sort(key=lambda each: (not each.task, each.queue, each.task))
    return RunsToday(runs, left_out=sum(row[9] for row in rows if not row[1]))
