"""The time from just before enqueue() to the first line of the job, on an idle worker of the same machine."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.measure import percentile
from benchmarks.queue.floor import CLAIM, COMPLETE, INSERT, TABLE, Floor
from benchmarks.queue.report import Figure
from benchmarks.queue.sizes import Sizes
from benchmarks.queue.workers import empty, first, wait_for, workers
from pgonly_django.queue.enqueue import new_ids

# Long enough for the worker to be idle again. After much longer ones the machine's own sleep would be measured.
PAUSES = (0.005, 0.009)  # seconds
CHANNEL = "floor"
WARM_UP = 10  # jobs not counted at the start of each turn: imports, the first thread, preparing statements


def now() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def measure(url: str, sizes: Sizes) -> list[Figure]:
    """In turns with the floor, with a new worker each time."""
    samples: list[float] = []
    least: list[float] = []
    for _ in range(sizes.rounds):
        count = sizes.pickups // sizes.rounds
        samples += ours(url, count)
        least += _floor(url, count + WARM_UP)[WARM_UP:]
    return [
        Figure("p50", "ms", percentile(samples, 50), percentile(least, 50), ratio_at_most=1.3),
        Figure("p95", "ms", percentile(samples, 95), percentile(least, 95)),
        Figure("p99", "ms", percentile(samples, 99), percentile(least, 99), ratio_at_most=2),
    ]


def ours(url: str, count: int) -> list[float]:
    """Milliseconds."""
    from benchmarks.queue.jobs import tell_start

    with psycopg.connect(url, autocommit=True) as connection:
        empty(connection)
        with workers(url, 1):
            at_intervals(lambda: tell_start.enqueue(now()), count + WARM_UP)
            done = "SELECT count(*) FROM pgonly_job WHERE state = 'succeeded'"
            wait_for(lambda: first(connection, done) == count + WARM_UP, "the last job")
            rows = connection.execute("SELECT result::float8 * 1000 FROM pgonly_job ORDER BY id").fetchall()
    return [milliseconds for (milliseconds,) in rows][WARM_UP:]


def _floor(url: str, count: int) -> list[float]:
    """LISTEN, claim, read the clock, complete: in another process, as a worker does it."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.SimpleQueue()
    with Floor(url) as floor:
        floor.connection.execute(TABLE)
        worker = context.Process(target=_listen, args=(url, count, answers))
        worker.start()
        assert answers.get() == "ready"

        def enqueue() -> None:
            floor.connection.execute(INSERT, (*new_ids(1), f"[{now()!r}]"), prepare=True)
            floor.connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,), prepare=True)

        at_intervals(enqueue, count)
        samples: list[float] = answers.get()
        worker.join(timeout=10)
    return samples


def _listen(url: str, count: int, answers: Any) -> None:
    samples: list[float] = []
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url, autocommit=True) as claimer:
        listener.execute(f"LISTEN {CHANNEL}")
        answers.put("ready")
        for _ in listener.notifies():
            rows = claimer.execute(CLAIM, (1,), prepare=True).fetchall()
            samples += [(now() - args[0]) * 1000 for _, _, args in rows]
            claimer.execute(COMPLETE, ([row[0] for row in rows],), prepare=True)
            if len(samples) >= count:
                break
    answers.put(samples)


def at_intervals(enqueue: Callable[[], object], count: int) -> None:
    for _ in range(count):
        time.sleep(random.uniform(*PAUSES))
        enqueue()
