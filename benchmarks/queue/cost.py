"""The cost of a job: statements, bytes of WAL and CPU of the worker. And the statements of an idle worker."""

from __future__ import annotations

import time

import psycopg

from benchmarks import servers
from benchmarks.queue.drain import LOGS, drained
from benchmarks.queue.floor import Floor
from benchmarks.queue.report import Figure
from benchmarks.queue.sizes import Sizes
from benchmarks.queue.workers import Workers, django_on, empty, first, workers

SETTLE_SECONDS = 25.0  # until an idle worker claims only at its safety poll
# All statements but those of this benchmark. A heartbeat is a statement that names the worker's row.
CALLS = """
SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements
WHERE toplevel AND query !~ 'pg_stat_statements' AND query !~* '^(begin|commit|copy|truncate|vacuum)'
"""
HEARTBEATS = CALLS + " AND query ~ 'pgonly_worker|worker_id ='"


def measure(url: str, sizes: Sizes) -> list[Figure]:
    with servers.postgres("shared_preload_libraries=pg_stat_statements") as counting, django_on(counting):
        statements, (idle, beside) = _statements(counting, sizes), _idle(counting, sizes)
    wal, floor_wal = _wal(url, sizes.drained), _floor_wal(url, sizes.drained)
    start, floor_cpu = cpu_of_a_start(url), _floor_cpu(url, sizes.drained) / sizes.drained * 1e6
    cpu = {logs: (drained(url, 1, sizes.drained, logs)[1] - start) / sizes.drained * 1e6 for logs in LOGS}
    return [
        Figure("statements per job", "drain", statements / sizes.drained, 2 / 100),
        Figure("WAL per job, enqueue to finish", "bytes", wal / sizes.drained, floor_wal / sizes.drained),
        Figure("CPU of the worker per job", "us", cpu[""], floor_cpu),
        Figure("the same, logs at WARNING", "us", cpu["warning"], floor_cpu),
        Figure("idle statements per 10 s", "with heartbeats", idle),
        Figure("idle statements per 10 s", "beside heartbeats", beside, at_most=1),
    ]


def _statements(url: str, sizes: Sizes) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        drained(url, 1, sizes.drained)
        return int(first(connection, CALLS))


def _idle(url: str, sizes: Sizes) -> tuple[float, float]:
    """Statements of one idle worker per 10 s: all of them, and without its heartbeats."""
    with psycopg.connect(url, autocommit=True) as connection:
        empty(connection)
        with workers(url, 1):
            time.sleep(SETTLE_SECONDS)
            connection.execute("SELECT pg_stat_statements_reset()")
            time.sleep(sizes.idle_seconds)
            beats, calls = first(connection, HEARTBEATS), first(connection, CALLS)
            return calls * 10 / sizes.idle_seconds, (calls - beats) * 10 / sizes.idle_seconds


def _wal(url: str, count: int) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        empty(connection)
        before = first(connection, "SELECT pg_current_wal_insert_lsn()")
        drained(url, 1, count)
        return int(first(connection, "SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", before))


def _floor_wal(url: str, count: int) -> int:
    with Floor(url) as floor:
        before = first(floor.connection, "SELECT pg_current_wal_insert_lsn()")
        floor.copy(count)
        floor.drain()
        return int(first(floor.connection, "SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", before))


def _floor_cpu(url: str, count: int) -> float:
    """Seconds of this process."""
    with Floor(url) as floor:
        floor.copy(count)
        began = time.process_time()
        floor.drain()
        return time.process_time() - began


def cpu_of_a_start(url: str) -> float:
    running = Workers(url, 1)
    running.wait_until_ready()
    return running.stop()
