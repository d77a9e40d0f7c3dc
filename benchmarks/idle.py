"""The command `python -m benchmarks idle`: how many statements and connections workers need while there is no job."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from benchmarks import servers
from benchmarks.measure import write_report
from benchmarks.queue.command import configure
from benchmarks.queue.workers import first, workers

SAMPLE_SECONDS = 1.0
OF_WORKERS = """
SELECT count(*) AS of_the_benchmark FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
STATEMENTS = """
SELECT calls, regexp_replace(query, '\\s+', ' ', 'g') FROM pg_stat_statements
WHERE toplevel AND query !~ 'of_the_benchmark|pg_stat_statements' ORDER BY calls DESC
"""


def main(argv: Sequence[str]) -> int:
    arguments = _arguments(argv)
    with servers.postgres("shared_preload_libraries=pg_stat_statements") as url:
        configure(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            with workers(url, arguments.workers, *arguments.flags):
                _enqueue_one(connection)
                before = _watch(connection, "until they are idle", arguments.settle)
                idle = _watch(connection, "idle", arguments.seconds)
    write_report(arguments.json, {"idle": {"before": before, "idle": idle}})
    return 0


def _enqueue_one(connection: psycopg.Connection[Any]) -> None:
    """So that the workers have worked."""
    from django.db import connections

    from benchmarks.queue.jobs import nothing

    nothing.enqueue(1)
    connections.close_all()
    while first(connection, "SELECT count(*) FROM pgonly_job WHERE state <> 'succeeded'"):
        time.sleep(0.1)


def _watch(connection: psycopg.Connection[Any], what: str, seconds: float) -> dict[str, object]:
    connection.execute("SELECT pg_stat_statements_reset()")
    until, most, least = time.monotonic() + seconds, 0, 1 << 30
    while time.monotonic() < until:
        time.sleep(SAMPLE_SECONDS)
        now = first(connection, OF_WORKERS)
        most, least = max(most, now), min(least, now)
    statements = connection.execute(STATEMENTS).fetchall()
    total = sum(calls for calls, _ in statements)
    print(f"{what}, {seconds:g} s: {total} statements, {least} to {most} connections")
    for calls, query in statements:
        print(f"    {calls:4} x {query[:100]}")
    return {"seconds": seconds, "statements": total, "connections": [least, most]}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks idle", description=main.__doc__)
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument("--seconds", type=float, default=360.0, help="how long to watch (6 minutes)")
    parser.add_argument("--settle", type=float, default=100.0, help="first wait so long after the last job")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("flags", nargs="*", help="of runworker, behind --")
    return parser.parse_args(argv)
