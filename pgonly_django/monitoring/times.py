"""How long runs waited and took, per queue and task: from the histograms of pgonly_job_stats."""

from __future__ import annotations

from collections import defaultdict
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
SELECT queue, task, most.runs, most.failed, kind, bucket::int, sum(counted)::int8
FROM most JOIN kept USING (queue, task) LEFT JOIN LATERAL (
    SELECT 'waiting' AS kind, bucket, counted FROM unnest(waiting_times) WITH ORDINALITY AS each(counted, bucket)
    UNION ALL
    SELECT 'run', bucket, counted FROM unnest(run_times) WITH ORDINALITY AS each(counted, bucket)
) AS buckets ON counted > 0
GROUP BY queue, task, most.runs, most.failed, kind, bucket
ORDER BY most.runs DESC, queue, task
""")


def times(alias: str, period: Period) -> list[Times]:
    """Of the TASKS_AT_MOST pairs of queue and task that ran most often in the period, in that order."""
    parts = period.value
    with connections[alias].cursor() as cursor:
        cursor.execute(HISTOGRAMS, {"granularity": parts.granularity, "within": str(parts.whole)})
        rows = cursor.fetchall()
    histograms: dict[tuple[str, str, int, int], dict[str, list[int]]] = defaultdict(
        lambda: {"waiting": [0] * len(BOUNDS), "run": [0] * len(BOUNDS)}
    )
    for *key, kind, bucket, counted in rows:
        found = histograms[tuple(key)]
        if kind is not None and bucket <= len(BOUNDS):
            found[kind][bucket - 1] = counted
    return [
        Times(
            *key,
            waiting_p50=percentile(found["waiting"], 0.5),
            waiting_p95=percentile(found["waiting"], 0.95),
            run_p50=percentile(found["run"], 0.5),
            run_p95=percentile(found["run"], 0.95),
        )
        for key, found in histograms.items()
    ]


def percentile(histogram: Sequence[int], part: float) -> float | None:
    """The duration in seconds that this `part` of the runs stayed below. Inside a bucket the runs count as evenly
    spread, so it is off by less than the width of the bucket: 41 %."""
    wanted = sum(histogram) * part
    below = 0
    for number, count in enumerate(histogram):
        if count and below + count >= wanted:
            start = BOUNDS[number - 1] if number else 0.0
            return start + (BOUNDS[number] - start) * (wanted - below) / count
        below += count
    return None
