"""The knowledge of the database as metrics, made of a Stats, without a library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nsmallest
from itertools import accumulate
from math import inf
from typing import Any

from pgonly_django.exposition import Buckets, Metric, Rows, Source
from pgonly_django.models.job_stats import BOUNDS, BUCKETS, NUMBERS
from pgonly_django.models.worker import own_version
from pgonly_django.monitoring.queues import QUEUES_AT_MOST, QueueFigures
from pgonly_django.monitoring.stats import PARTS, Stats

OTHERS = "(other)"  # the label of what is counted together since it is beyond a cap
# Each is twice the one before: 4 ms to 4 h 40 min. Those of the statistics are closer, and reach further.
SHOWN_BOUNDS = tuple(range(4, 49, 2))


def shown_queues(stats: Stats) -> list[QueueFigures]:
    """Returns the queues in which a job has waited longest, then those with most jobs."""

    def need(queue: QueueFigures) -> tuple[float, int, str]:
        return -(queue.oldest_seconds or 0.0), -(queue.waiting.number + queue.running.number), queue.name

    return nsmallest(QUEUES_AT_MOST, stats.queues or (), key=need)


def buckets(counts: Sequence[int]) -> Buckets:
    """Returns the buckets of SHOWN_BOUNDS: of the statistics' own some are added up, so that none is an estimate."""
    upto = list(accumulate([*counts, *[0] * BUCKETS][:BUCKETS]))
    return [*((BOUNDS[number], upto[number]) for number in SHOWN_BOUNDS), (inf, upto[-1])]


def _missing(stats: Stats) -> Rows:
    for part in PARTS:
        if part in stats.missing or getattr(stats, part) is not None:
            yield (stats.database, part), part in stats.missing


def _runs(stats: Stats) -> Rows:
    for runs in stats.runs.runs if stats.runs else ():
        yield (stats.database, runs.queue or OTHERS, runs.task or OTHERS), runs


def _outcomes(stats: Stats) -> Rows:
    for labels, runs in _runs(stats):
        yield from (((*labels, outcome), getattr(runs, outcome)) for outcome in NUMBERS)


def _part(part: str) -> Source:
    return Source("database", part, lambda stats: [((stats.database_of[part],), getattr(stats, part))])


def _named(label: str, part: str) -> Source:
    return Source(f"database {label}", part, lambda stats: [
        ((stats.database_of[part], row.name), row) for row in getattr(stats, part)
    ])  # fmt: skip


def _overdue_seconds(schedules: Iterable[Any]) -> float:
    """Returns the seconds of the tick that is due for longest. A row has `now`, the database's clock."""
    ticking = (row for row in schedules if row.paused_at is None and row.next_at is not None)
    late: list[float] = [(row.now - row.next_at).total_seconds() for row in ticking]
    return max([0.0, *late])


def _cools_down_seconds(limiter: Any) -> Any:
    return max((limiter.blocked_until - limiter.now).total_seconds(), 0.0) if limiter.blocked_until else 0.0


READING = Source("database", "", lambda stats: [((stats.database,), stats)])
VERSION = Source("database version", "", lambda stats: [((stats.database, own_version()), 1)])
QUEUES = Source("database queue", "queues", lambda stats: [
    ((stats.database, queue.name), queue) for queue in shown_queues(stats)
])  # fmt: skip
SERVED = Source("database queue", "queues served", lambda stats: [
    ((stats.database, queue.name), stats.served.has(queue.name)) for queue in shown_queues(stats)
])  # fmt: skip
STATES = Source("database state", "states", lambda stats: [
    ((stats.database, state.value), count.number) for state, count in stats.states.items()
])  # fmt: skip
TIMED_RUNS = Source("database queue task", "runs", lambda stats: (row for row in _runs(stats) if row[1].task))
WORKERS = _part("worker_totals")
LIMITERS = _named("limiter", "limiters")
BUDGETS = _named("budget", "budgets")
CACHES_UP = Source("database cache", "caches", lambda stats: [
    ((cache.database, cache.alias), not cache.problem) for cache in stats.caches
])  # fmt: skip
CACHES = Source("database cache", "caches", lambda stats: [
    ((cache.database, cache.alias), cache) for cache in stats.caches if not cache.problem
])  # fmt: skip
# Each once, since caches share tables.
TABLES = Source("database table", "caches", lambda stats: {
    (cache.database, cache.table): cache.table_bytes for cache in stats.caches if not cache.problem
}.items())  # fmt: skip
SESSIONS = _part("sessions")

METRICS = (
    Metric("pgonly_up", "1 where the database answered.", READING, lambda stats: stats.is_up),
    Metric("pgonly_stats_missing", "1 where this part of the statistics could not be read; the log says why.",
           Source("database part", "", _missing), float),
    Metric("pgonly_stats_read_seconds", "How long this reading took.", READING, lambda stats: stats.seconds),
    Metric("pgonly_build_info", "1, with the version of pgonly-django.", VERSION, float),

    Metric("pgonly_queue_waiting_jobs", "Jobs that are ready, or due, counted up to 1,000 of each queue.",
           QUEUES, lambda queue: queue.waiting.number),
    Metric("pgonly_queue_running_jobs", "Jobs that run, counted up to 1,000 of each queue.",
           QUEUES, lambda queue: queue.running.number),
    Metric("pgonly_queue_oldest_waiting_seconds",
           "Since the job that has waited longest became ready, or was due; 0 where none waits.",
           QUEUES, lambda queue: queue.oldest_seconds or 0.0),
    Metric("pgonly_queue_paused", "1 while a person has paused the queue.",
           QUEUES, lambda queue: queue.paused_at is not None),
    Metric("pgonly_queue_served", "1 while a live worker takes jobs of the queue.",
           SERVED, float),
    Metric("pgonly_queue_running_limit",
           "How many jobs of the queue may run at a time; only of queues that have this limit.",
           QUEUES, lambda queue: queue.row.max_running),
    Metric("pgonly_queues_left_out", "Queues that have no metrics, since there are more than 100.",
           READING._replace(parts="queues queue_count"),
           lambda stats: max(stats.queue_count - len(shown_queues(stats)), 0)),

    Metric("pgonly_jobs", "Jobs by state, counted up to 10,000 of each.", STATES, float),
    Metric("pgonly_batches_open", "Batches that have not finished, counted up to 10,000.",
           _part("open_batches"), lambda count: count.number),
    Metric("pgonly_jobs_failed_last_hour", "Jobs that failed for the last time within the last hour.",
           _part("failed"), lambda failed: failed.last_hour),
    Metric("pgonly_runs_total", "Runs that have ended, by what came of them. It begins again at midnight, UTC.",
           Source("database queue task outcome", "runs", _outcomes), float),
    Metric("pgonly_wait_duration_seconds", "From ready to the start of the run. It begins again at midnight, UTC.",
           TIMED_RUNS, lambda runs: buckets(runs.waiting_times)),
    Metric("pgonly_run_duration_seconds", "How long runs took. It begins again at midnight, UTC.",
           TIMED_RUNS, lambda runs: buckets(runs.run_times)),
    Metric("pgonly_tasks_left_out",
           'Pairs of a queue and a task that are counted together as "(other)", since there are more than 100.',
           _part("runs"), lambda runs: runs.left_out),

    Metric("pgonly_workers_live", "Workers that are live.", WORKERS, lambda totals: totals.live),
    Metric("pgonly_workers_asleep", "Live workers that sleep (--sleep-after).",
           WORKERS, lambda totals: totals.asleep),
    Metric("pgonly_workers_silent",
           "Workers that were not stopped and say nothing for half a lease, for an hour or while they hold jobs.",
           WORKERS, lambda totals: totals.silent),
    Metric("pgonly_workers_late",
           "Workers that hold jobs and whose heartbeat is late; of the 100 that were heard of last.",
           _part("workers"), lambda workers: sum(worker.is_late for worker in workers)),
    Metric("pgonly_workers_threads", "Jobs that the live workers may run at a time.",
           WORKERS, lambda totals: totals.threads),
    Metric("pgonly_workers_last_heartbeat_age_seconds",
           "Since the last heartbeat of a live worker; absent where none is live.",
           WORKERS, lambda totals: totals.newest_heartbeat_seconds),
    Metric("pgonly_oldest_snapshot_seconds",
           "Since the oldest transaction began that keeps vacuum from cleaning up; 0 where none is older than 1 s.",
           _part("snapshots"), lambda snapshots: max((each.seconds for each in snapshots), default=0.0)),
    Metric("pgonly_schedules_failing", "Schedules whose last tick could not be enqueued, counted up to 20.",
           _part("failing_schedules"), len),
    Metric("pgonly_schedule_overdue_seconds", "Since the tick was due that is due for longest; 0 where none is.",
           _part("schedules"), _overdue_seconds),

    # Of 50 limiters, those that cool down first; and of 20 budgets, those that hold jobs first, then the fullest.
    Metric("pgonly_limiter_slots_used", "Slots of the limiter that are taken.", LIMITERS, lambda row: row.held),
    Metric("pgonly_limiter_slots", "Slots of the limiter, where it has a number.",
           LIMITERS, lambda row: row.concurrent),
    Metric("pgonly_limiter_waiters", "Callers that wait for the limiter.", LIMITERS, lambda row: row.waiters),
    Metric("pgonly_limiter_cool_down_seconds", "Until the limiter lets callers in again; 0 while it does.",
           LIMITERS, _cools_down_seconds),
    Metric("pgonly_budget_cap_usd", "What may be spent in a period of the budget.", BUDGETS, lambda row: row.usd),
    Metric("pgonly_budget_spent_usd", "What is spent in its present period.", BUDGETS, lambda row: row.spent_now),
    Metric("pgonly_budget_reserved_usd", "What is reserved and not settled yet.",
           BUDGETS, lambda row: row.reserved),
    Metric("pgonly_budget_held_jobs", "Jobs that the budget holds until it has room, counted up to 10,000.",
           BUDGETS, lambda row: row.held_jobs.number),

    Metric("pgonly_cache_up", "1 where the figures of the cache could be read.",
           CACHES_UP, float),
    Metric("pgonly_cache_entries", "Entries, from 5,000 on an estimate.", CACHES, lambda cache: cache.entries),
    Metric("pgonly_cache_bytes", "Bytes of the entries, from 5,000 entries on an estimate.",
           CACHES, lambda cache: cache.bytes),
    Metric("pgonly_cache_max_entries", "Bound of the entries, where it has one.",
           CACHES, lambda cache: cache.max_entries),
    Metric("pgonly_cache_max_bytes", "Bound of the bytes, where it has one.",
           CACHES, lambda cache: cache.max_bytes),
    Metric("pgonly_cache_hits_total", "Reads that found an entry.", CACHES, lambda cache: cache.hits),
    Metric("pgonly_cache_misses_total", "Reads that found none.", CACHES, lambda cache: cache.misses),
    Metric("pgonly_cache_table_bytes", "Size on disk of a table of entries, with its indexes.",
           TABLES, float),
    Metric("pgonly_sessions_active", "Sessions that have not expired or ended, counted up to 5,000.",
           SESSIONS, lambda found: found.active.number),
    Metric("pgonly_sessions_logged_in", "Those of them that belong to a user, of the 5,000 that expire last.",
           SESSIONS, lambda found: found.logged_in.number),
)  # fmt: skip
