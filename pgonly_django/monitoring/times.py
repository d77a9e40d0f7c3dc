"""How long runs waited and took, per queue and task: from the histograms of pgonly_job_stats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.db import connections

from pgonly_django.models.job_stats import BOUNDS
from pgonly_django.monitoring.throughput import Period
from pgonly_django.tables import qualified

TASKS_AT_MOST = 20


class Times(NamedTuple):
    """Of the runs of one task from one queue that ended in the period. Seconds; None where none was measured."""

    queue: str
    task: str
    runs: int
    failed: int
    waiting_p50: float | None
    waiting_p95: float | None
    run_p50: float | None
    run_p95: float | None


def _sums(column: str) -> str:
    """SQL: the sum of each bucket. As columns: with a row for each bucket it takes five times as long."""
    return f"ARRAY[{', '.join(f'sum({column}[{number}])' for number in range(1, len(BOUNDS) + 1))}]"


# Index: pgonly_job_stats_once, the rows of the period. The histograms of the tasks with the most runs are added up.
HISTOGRAMS = qualified(f"""
WITH kept AS MATERIALIZED (
    SELECT queue, task, succeeded + failed + retried + interrupted + crashed AS runs, failed,
        waiting_times, run_times
    FROM pgonly_job_stats
    WHERE granularity = %(granularity)s::text AND starts_at > statement_timestamp() - %(within)s::interval
),
most AS (
    SELECT queue, task, sum(runs)::int8 AS runs, sum(failed)::int8 AS failed FROM kept
    GROUP BY queue, task ORDER BY 3 DESC, queue, task LIMIT {TASKS_AT_MOST}
)
SELECT queue, task, most.runs, most.failed, {_sums("waiting_times")}, {_sums("run_times")}
FROM most JOIN kept USING (queue, task)
GROUP BY queue, task, most.runs, most.failed
ORDER BY most.runs DESC, queue, task
""")


def times(alias: str, period: Period) -> list[Times]:
    """Of the TASKS_AT_MOST pairs of queue and task that ran most often in the period, in that order."""
    parts = period.value
    with connections[alias].cursor() as cursor:
        cursor.execute(HISTOGRAMS, {"granularity": parts.granularity, "within": str(parts.whole)})
        return [_times_of(*row) for row in cursor.fetchall()]


def _times_of(
    queue: str, task: str, runs: int, failed: int, waited: list[int | None], took: list[int | None]
) -> Times:
    halves_and_tails = (percentile(each, part) for each in (waited, took) for part in (0.5, 0.95))
    return Times(queue, task, runs, failed, *halves_and_tails)


def percentile(histogram: Sequence[int | None], part: float) -> float | None:
    """The duration in seconds that this `part` of the runs stayed below. Inside a bucket the runs count as evenly
    spread, so it is off by less than the width of the bucket: 41 %. None counts as 0."""
    counts = [count or 0 for count in histogram]
    wanted = sum(counts) * part
    below = 0
    for number, count in enumerate(counts):
        if count and below + count >= wanted:
            start = BOUNDS[number - 1] if number else 0.0
            return start + (BOUNDS[number] - start) * (wanted - below) / count
        below += count
    return None
