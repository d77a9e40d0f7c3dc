"""How fast warm worker processes drain no-op jobs, from first claim to last finish by the database's clock."""

from __future__ import annotations

from functools import partial

import psycopg

from benchmarks.measure import median
from benchmarks.queue.floor import Floor, drain_in_processes
from benchmarks.queue.report import Figure
from benchmarks.queue.sizes import Sizes
from benchmarks.queue.workers import empty, first, wait_for, workers

LOGS = ("", "warning")  # see Workers
SPAN = """
SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM pgonly_job
WHERE state = 'succeeded'
"""
IS_DONE = "SELECT state = 'succeeded' FROM pgonly_job WHERE id = %s"
UNFINISHED = "SELECT EXISTS (SELECT FROM pgonly_job WHERE state IN ('scheduled', 'ready', 'running'))"


def measure(url: str, sizes: Sizes) -> list[Figure]:
    rates: dict[tuple[str, int], list[float]] = {}
    with Floor(url) as floor:
        for _ in range(sizes.rounds):
            for processes in (1, 2):
                for logs in LOGS:
                    ours, _ = drained(url, processes, sizes.drained, logs=logs)
                    rates.setdefault((logs, processes), []).append(ours)
                floor.empty()
                floor.copy(sizes.drained)
                least = drain_in_processes(url, processes, sizes.drained)
                rates.setdefault(("floor", processes), []).append(least)
    rate = {key: median(values) for key, values in rates.items()}
    scaling = (rate[name, 2] / rate[name, 1] for name in ("", "floor"))
    return [
        Figure("one process", "jobs/s", rate["", 1], rate["floor", 1], target=0.6),
        Figure("one process, logs at WARNING", "jobs/s", rate["warning", 1], rate["floor", 1], target=0.75),
        Figure("two processes", "jobs/s", rate["", 2], rate["floor", 2], target=0.7),
        Figure("two processes, logs at WARNING", "jobs/s", rate["warning", 2], rate["floor", 2], target=0.85),
        Figure("two processes against one", "x", *scaling),
    ]


def drained(url: str, processes: int, count: int, logs: str = "") -> tuple[float, float]:
    """Jobs per second, and the CPU seconds of the worker processes including their start."""
    from benchmarks.queue.jobs import nothing
    from pgonly_django import enqueue_many

    with psycopg.connect(url, autocommit=True) as connection:
        empty(connection)
        with workers(url, processes, logs=logs) as running:
            results = enqueue_many((nothing, (number,)) for number in range(count))
            # First wait for the last job: a query for unfinished jobs reads the index entries of all finished ones.
            is_done = partial(first, connection, IS_DONE, results[-1].id)
            wait_for(is_done, "the last job", pause=0.05)
            wait_for(lambda: not first(connection, UNFINISHED), "the drain", pause=0.1)
            seconds = first(connection, SPAN)
            return count / seconds, running.stop()
