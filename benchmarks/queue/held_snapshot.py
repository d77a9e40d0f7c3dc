"""Enqueue and drain while another transaction's snapshot keeps vacuum from removing any dead row."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
from psycopg import IsolationLevel

from benchmarks.queue.floor import Floor, drain
from benchmarks.queue.report import Figure
from benchmarks.queue.sizes import Sizes
from benchmarks.queue.workers import empty, first, wait_for, workers

CHUNK = 2_500
CHUNKS_AHEAD = 2
# The speed of each tenth of the jobs, in the order in which they were finished.
TENTHS = """
SELECT count(*) / extract(epoch FROM max(finished_at) - min(finished_at))::float8 FROM (
    SELECT finished_at, ntile(10) OVER (ORDER BY finished_at) AS tenth FROM {table} WHERE state = 'succeeded'
) AS finished GROUP BY tenth ORDER BY tenth
"""


def measure(url: str, sizes: Sizes) -> list[Figure]:
    ours, least = _ours(url, sizes.held), _floor(url, sizes.held)
    return [
        Figure("first tenth", "jobs/s", ours[0], least[0]),
        Figure("last tenth", "jobs/s", ours[-1], least[-1]),
        Figure("last against first", "x", ours[-1] / ours[0], least[-1] / least[0], at_least=0.7),
    ]


def _ours(url: str, count: int) -> list[float]:
    from benchmarks.queue.jobs import nothing
    from pgonly_django import enqueue_many

    def enqueue(number: int) -> str:
        return enqueue_many([(nothing, (n,)) for n in range(number)])[-1].id

    with psycopg.connect(url, autocommit=True) as connection:
        empty(connection)
        with workers(url, 1), old_snapshot(url):
            _keep_busy(connection, "pgonly_job", enqueue, count)
            return _tenths(connection, "pgonly_job")


def _floor(url: str, count: int) -> list[float]:
    with Floor(url) as floor, old_snapshot(url):

        def enqueue(number: int) -> str:
            floor.copy(number)
            return str(first(floor.connection, "SELECT id FROM floor_job ORDER BY id DESC LIMIT 1"))

        worker = multiprocessing.get_context("spawn").Process(target=_drain_for_ever, args=(url,))
        worker.start()
        try:
            _keep_busy(floor.connection, "floor_job", enqueue, count)
        finally:
            worker.terminate()
            worker.join(timeout=10)
        return _tenths(floor.connection, "floor_job")


@contextlib.contextmanager
def old_snapshot(url: str) -> Iterator[None]:
    """A REPEATABLE READ transaction with its snapshot taken, which its first query does and BEGIN does not."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM pgonly_job")
        yield
        connection.rollback()


def _keep_busy(
    connection: psycopg.Connection[Any], table: str, enqueue: Callable[[int], str], count: int
) -> None:
    """Enqueue chunk after chunk, CHUNKS_AHEAD of the worker. Returns when all jobs are done."""
    last_of_chunk: list[str] = []
    is_done = f"SELECT state = 'succeeded' FROM {table} WHERE id = %s"
    for _ in range(count // CHUNK):
        last_of_chunk.append(enqueue(CHUNK))
        if len(last_of_chunk) > CHUNKS_AHEAD:
            done = partial(first, connection, is_done, last_of_chunk[-1 - CHUNKS_AHEAD])
            wait_for(done, "a chunk", pause=0.005)
    unfinished = f"SELECT count(*) FROM {table} WHERE state IN ('scheduled', 'ready', 'running')"
    wait_for(lambda: first(connection, unfinished) == 0, "the last chunk", pause=0.1)


def _tenths(connection: psycopg.Connection[Any], table: str) -> list[float]:
    return [rate for (rate,) in connection.execute(TENTHS.format(table=table)).fetchall()]


def _drain_for_ever(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            drain(connection)
            time.sleep(0.001)
