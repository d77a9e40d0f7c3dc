"""How many runs ended and how, how long they waited and took: from pgonly_job_stats, which workers write every 15 s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from django.db import connections

from pgonly_django.database.on_django import all_rows
from pgonly_django.models.job_rows import CAUSE
from pgonly_django.models.job_stats import BOUNDS, BUCKETS, NUMBERS, Counts
from pgonly_django.models.readable import read_json
from pgonly_django.monitoring.queues import Counted
from pgonly_django.outcomes import TRIED_AGAIN
from pgonly_django.queue.health import FAILED_SAMPLE
from pgonly_django.tables import qualified

ERRORS_AT_MOST = 500  # errors, which may be long
TASKS_AT_MOST = 20  # whose times are told
PAIRS_AT_MOST = 100  # of a queue and a task
# Rows that are read: to find these pairs, and to count all others. A row is one pair in one hour.
EARLIEST_AT_MOST, COUNTED_AT_MOST = 10_000, 30_000


class Period(Enum):
    """The rows of one granularity, in a number of parts of equal length."""

    HOUR = "minute", timedelta(minutes=1), 60
    DAY = "hour", timedelta(hours=1), 24
    WEEK = "hour", timedelta(hours=4), 42

    def __init__(self, granularity: str, length: timedelta, count: int) -> None:
        self.granularity, self.length, self.count = granularity, length, count


@dataclass(slots=True, kw_only=True)
class EndedRuns(Counts):
    """The runs that ended in one part of a period."""

    starts_at: datetime

    @property
    def ended_jobs(self) -> int:
        return self.failed + self.succeeded


class PeriodPart(NamedTuple):
    """One part of a period."""

    ended: EndedRuns
    waiting_times: Sequence[int]  # the histogram of the runs that ended; empty where none did


def _sum(column: str) -> str:
    return f"coalesce(sum({column}), 0)::int8"


def _sums(column: str) -> str:
    """Returns SQL for the sum of each bucket, as columns: with a row for each bucket it takes five times as long."""
    return f"ARRAY[{', '.join(_sum(f'{column}[{number}]') for number in range(1, BUCKETS + 1))}]"


# The parts are told apart by epochs: without USE_TZ the hour that a change of the clocks repeats has one name twice.
PARTS_OF_PERIOD = """
SELECT date_part('epoch', start), start
FROM (SELECT date_bin(%(length)s::interval, clock_timestamp(), timestamptz '2000-01-01 00:00+00') AS last) AS present,
    generate_series(last - %(length)s::interval * %(earlier)s::int, last, %(length)s::interval) AS start
"""
_OF_QUEUE = "(%(queue)s::text = '' OR queue = %(queue)s::text)"


def _of_parts(columns: str) -> str:
    """Index: pgonly_job_stats_once, the rows of the period: one for each task, queue and minute, or hour."""
    return qualified(f"""
SELECT date_part('epoch', date_bin(%(length)s::interval, starts_at, timestamptz '2000-01-01 00:00+00')), {columns}
FROM pgonly_job_stats
WHERE granularity = %(granularity)s::text AND starts_at >= to_timestamp(%(since)s::float8) AND {_OF_QUEUE}
GROUP BY 1
""")


ENDED = _of_parts(", ".join(map(_sum, NUMBERS)))
ENDED_AND_WAITED = _of_parts(f"{', '.join(map(_sum, NUMBERS))}, {_sums('waiting_times')}")


def throughput(alias: str, period: Period, queue: str = "") -> list[EndedRuns]:
    """Returns one entry for each part of the period, the present one last; zeros where nothing ended."""
    found = _by_part(alias, ENDED, period, queue)
    return [EndedRuns(*numbers, starts_at=start) for start, numbers in found]


def parts(alias: str, period: Period, queue: str = "") -> list[PeriodPart]:
    """Returns one entry for each part of the period, the present one last. `queue`: of its runs alone."""
    found = _by_part(alias, ENDED_AND_WAITED, period, queue)
    return [
        PeriodPart(EndedRuns(*columns[:-1], starts_at=start), columns[-1] if columns else ())
        for start, columns in found
    ]


def _by_part(alias: str, statement: str, period: Period, queue: str) -> list[tuple[datetime, list[Any]]]:
    length = str(period.length)
    with connections[alias].cursor() as cursor:
        cursor.execute(PARTS_OF_PERIOD, {"length": length, "earlier": period.count - 1})
        parts = cursor.fetchall()
        facts = {"length": length, "granularity": period.granularity, "since": parts[0][0], "queue": queue}
        cursor.execute(statement, facts)
        found = {epoch: columns for epoch, *columns in cursor.fetchall()}
    return [(start, found.get(epoch, [])) for epoch, start in parts]


# Index: pgonly_job_stats_once, the rows of two hours.
FAILED = qualified("""
SELECT coalesce(sum(failed) FILTER (WHERE starts_at > statement_timestamp() - interval '1 hour'), 0)::int8,
    coalesce(sum(failed) FILTER (WHERE starts_at <= statement_timestamp() - interval '1 hour'), 0)::int8
FROM pgonly_job_stats
WHERE granularity = 'minute' AND starts_at > statement_timestamp() - interval '2 hours'
""")


class Failed(NamedTuple):
    last_hour: int
    hour_before: int


def failed_jobs(alias: str) -> Failed:
    """Counts the jobs that failed for the last time within the last hour, and in the hour before it."""
    with connections[alias].cursor() as cursor:
        cursor.execute(FAILED)
        return Failed(*cursor.fetchone())


class Times(NamedTuple):
    """The times of the runs of one task from one queue that ended in the period. Seconds; None where none was
    measured."""

    queue: str
    task: str
    runs: int
    failed: int  # runs that failed or crashed, whether another attempt follows or not
    waiting_p50: float | None
    waiting_p95: float | None
    run_p50: float | None
    run_p95: float | None


_KEPT = f"""granularity = %(granularity)s::text AND starts_at > statement_timestamp() - %(within)s::interval
        AND {_OF_QUEUE}"""
# Index: pgonly_job_stats_once, the rows of the period, twice: to keep their histograms in between would take longer.
HISTOGRAMS = qualified(f"""
WITH most AS MATERIALIZED (
    SELECT queue, task, sum({" + ".join(NUMBERS)})::int8 AS runs, sum(failed + crashed + retried)::int8 AS failed
    FROM pgonly_job_stats WHERE {_KEPT} GROUP BY queue, task ORDER BY 3 DESC, queue, task LIMIT {TASKS_AT_MOST}
)
SELECT queue, task, most.runs, most.failed, {_sums("waiting_times")}, {_sums("run_times")}
FROM most JOIN pgonly_job_stats USING (queue, task) WHERE {_KEPT}
GROUP BY queue, task, most.runs, most.failed
ORDER BY most.runs DESC, queue, task
""")


def times(alias: str, period: Period, queue: str = "") -> list[Times]:
    """Returns the times of the TASKS_AT_MOST pairs of queue and task that ran most often in the period, by that."""
    within = str(period.length * period.count)
    facts = {"granularity": period.granularity, "within": within, "queue": queue}
    with connections[alias].cursor() as cursor:
        cursor.execute(HISTOGRAMS, facts)
        return [
            Times(
                *names_and_counts,
                *(percentile(each, part) for each in (waited, took) for part in (0.5, 0.95)),
            )
            for *names_and_counts, waited, took in cursor.fetchall()
        ]


def percentile(histogram: Sequence[int], part: float) -> float | None:
    """Returns the duration in seconds that this `part` of the runs stayed below. Inside a bucket the runs count as
    evenly spread, so it is off by less than the width of the bucket: 41 %."""
    wanted = sum(histogram) * part
    below = 0
    for number, count in enumerate(histogram):
        if count and below + count >= wanted:
            start = BOUNDS[number - 1] if number else 0.0
            return start + (BOUNDS[number] - start) * (wanted - below) / count
        below += count
    return None


@dataclass(slots=True, kw_only=True)
class Runs(Counts):
    """The runs of one task from one queue. Buckets as in models/job_stats.py."""

    queue: str
    task: str  # "", as the queue: all pairs beyond the cap together
    waiting_times: Sequence[int] = ()  # none for the tasks beyond the cap
    run_times: Sequence[int] = ()


class RunsToday(NamedTuple):
    runs: list[Runs]
    left_out: int  # pairs without an entry; of the COUNTED_AT_MOST rows


_MIDNIGHT = "date_bin(interval '1 day', statement_timestamp(), timestamptz '2000-01-01 00:00+00')"
_LISTED = ", ".join(NUMBERS)
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
        SELECT {", ".join(f"{_sum(name)} AS {name}" for name in NUMBERS)},
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
SELECT {_LISTED}, queue, task, waiting, run, 0, 0 FROM counted
UNION ALL
SELECT {", ".join(f"{_sum(name)} - (SELECT {_sum(name)} FROM counted)" for name in NUMBERS)}, '', '', NULL, NULL,
    (SELECT count(*) FROM (SELECT queue, task FROM today EXCEPT SELECT queue, task FROM named) AS others), count(*)
FROM today
""")


def runs_today(alias: str) -> RunsToday:
    """Returns the runs that have ended since midnight (UTC): one entry for each pair of a queue and a task that ran
    today or yesterday, PAIRS_AT_MOST; and one, last, for all others, unless today has more than COUNTED_AT_MOST rows.

    They are counters for a program that compares two of its readings: they only grow until the next midnight, at which
    a new count begins. A sum over a sliding window falls when rows leave it, which such a program takes for a restart.
    """
    with connections[alias].cursor() as cursor:
        cursor.execute(RUNS)
        *rows, others = cursor.fetchall()
    runs = [_runs(*row[:-2]) for row in rows]
    runs.sort(key=lambda each: (each.queue, each.task))
    *numbers, left_out, read = others
    if left_out and read <= COUNTED_AT_MOST:
        runs.append(_runs(*numbers))
    return RunsToday(runs, left_out)


def _runs(*row: Any) -> Runs:
    *numbers, queue, task, waiting, took = row
    return Runs(*numbers, queue=queue, task=task, waiting_times=waiting or (), run_times=took or ())


# What is told of an error, whose texts may be long.
_TOLD = """jsonb_strip_nulls(jsonb_build_object(
    'outcome', error ->> 'outcome', 'exception', left(error ->> 'exception', 255),
    'message', left(error ->> 'message', 300), 'reason', left(error ->> 'reason', 300),
    'started_at', error -> 'started_at'))::text"""

# Index: pgonly_job_failed, the newest 5,000, then the primary key. Errors may be long, so those of 500 jobs are read:
# the newest of each task first, so that the failures of one task hide no other task. What a person has discarded is no
# news: that entry names no worker. Times are epochs, which compare the same whatever the time zone and USE_TZ are.
FAILED_SINCE = qualified(f"""
WITH newest AS (
    SELECT id, task, at, row_number() OVER (PARTITION BY task ORDER BY at DESC) AS number,
        count(*) OVER (PARTITION BY task) AS of_task
    FROM (SELECT id, task, date_part('epoch', finished_at) AS at FROM pgonly_job WHERE state = 'failed'
        ORDER BY finished_at DESC, id DESC LIMIT {FAILED_SAMPLE}) AS sample
    WHERE at > %(since)s::float8 AND at < 'infinity'
),
recent AS (
    SELECT chosen.*, job.errors -> -1 AS error, count(*) OVER (PARTITION BY chosen.task) < of_task AS has_more
    FROM (SELECT * FROM newest ORDER BY number, at DESC LIMIT {ERRORS_AT_MOST}) AS chosen
    JOIN pgonly_job AS job ON job.id = chosen.id
)
SELECT task, left(coalesce(error ->> 'exception', error ->> 'outcome', ''), 255), count(*), max(at),
    greatest(date_part('epoch', clock_timestamp()) - max(at), 0), bool_or(has_more),
    (array_agg({_TOLD} ORDER BY at DESC))[1]
FROM recent WHERE error ->> 'outcome' IS DISTINCT FROM 'discarded' OR error -> 'worker_id' IS NOT NULL
GROUP BY 1, 2 ORDER BY 3 DESC, 4 DESC, 1, 2
""")


class FailedGroup(NamedTuple):
    task: str
    error: (
        str  # as failed_with() takes it: the dotted path of the class, or else the outcome, such as "crashed"
    )
    jobs: Counted
    newest_at: float  # an epoch, by the database's clock
    newest_seconds: float  # ago
    newest: dict[str, Any]  # the entry of `errors` of the newest one, as far as cause_of() reads it


def failed_since(alias: str, since: float) -> list[FailedGroup]:
    """Returns the jobs that failed after `since`, an epoch, and have not been retried: the largest group first. Reads
    the errors of at most 500 jobs, the newest of each task, of the 5,000 jobs that failed last."""
    return [
        FailedGroup(task, error, Counted(number, has_more), newest_at, seconds, read_json(newest, CAUSE))
        for task, error, number, newest_at, seconds, has_more, newest in all_rows(
            alias, FAILED_SINCE, {"since": since}
        )
    ]


# Index: pgonly_job_scheduled, the first 5,000, then pgonly_wait_once: what waits for an event or for a time that its
# task has chosen has a row there.
RETRIED = qualified(f"""
WITH retried AS (
    SELECT task, attempt, max_attempts, error, coalesce(error ->> 'finished_at', '') AS at
    FROM (SELECT id, lease_epoch, task, attempt, max_attempts, errors -> -1 AS error FROM pgonly_job
        WHERE state = 'scheduled' ORDER BY run_at LIMIT {FAILED_SAMPLE}) AS job
    WHERE attempt > 0 AND error ->> 'outcome' = ANY(%(outcomes)s::text[])
        AND NOT EXISTS (
            SELECT FROM pgonly_wait AS wait WHERE wait.job_id = job.id AND wait.lease_epoch = job.lease_epoch)
)
SELECT task, count(*)::int, max(attempt), (array_agg(max_attempts ORDER BY attempt DESC))[1],
    (array_agg({_TOLD} ORDER BY at DESC))[1]
FROM retried GROUP BY 1 HAVING sum(attempt) >= %(failures)s::int ORDER BY 2 DESC, 1
""")


class RetriedGroup(NamedTuple):
    task: str
    jobs: int
    attempts: int  # used by the job that has used most of them
    max_attempts: int  # of that job
    newest: dict[str, Any]  # as that of a FailedGroup


def retried(alias: str, failures: int) -> list[RetriedGroup]:
    """Returns the tasks whose jobs wait for another attempt and have failed `failures` times together, the largest
    group first. Reads the 5,000 scheduled jobs that are due first."""
    facts = {"failures": failures, "outcomes": list(map(str, TRIED_AGAIN))}
    return [
        RetriedGroup(task, jobs, attempts, max_attempts, read_json(newest, CAUSE))
        for task, jobs, attempts, max_attempts, newest in all_rows(alias, RETRIED, facts)
    ]
