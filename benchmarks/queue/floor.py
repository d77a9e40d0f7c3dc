"""The least SQL that a queue needs, without retries, leases or a registry: the floor of every ratio."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Self

import psycopg

from pgonly_django.queue.enqueue import new_ids

BATCH = 100

TABLE = """
DROP TABLE IF EXISTS floor_job;
CREATE TABLE floor_job (
    id uuid PRIMARY KEY, queue text NOT NULL, task text NOT NULL, args jsonb NOT NULL,
    priority int NOT NULL DEFAULT 0, state text NOT NULL DEFAULT 'ready',
    ready_at timestamptz NOT NULL DEFAULT clock_timestamp(), started_at timestamptz, finished_at timestamptz
);
CREATE INDEX floor_job_ready ON floor_job (queue, priority DESC, ready_at, id) WHERE state = 'ready';
"""
INSERT = "INSERT INTO floor_job (id, queue, task, args) VALUES (%s, 'default', 'benchmarks.nothing', %s)"
COPY = "COPY floor_job (id, queue, task, args) FROM STDIN"
CLAIM = """
UPDATE floor_job SET state = 'running', started_at = clock_timestamp() WHERE id IN (
    SELECT id FROM floor_job WHERE state = 'ready' AND queue = 'default'
    ORDER BY priority DESC, ready_at, id LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING id, task, args
"""
COMPLETE = "UPDATE floor_job SET state = 'succeeded', finished_at = clock_timestamp() WHERE id = ANY (%s)"


class Floor:
    """One connection that enqueues and drains with the simplest statements."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)

    def __enter__(self) -> Self:
        self.connection.execute(TABLE)
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.execute("DROP TABLE floor_job")
        self.connection.close()

    def empty(self) -> None:
        self.connection.execute("TRUNCATE floor_job")

    def insert(self, number: int) -> None:
        (job_id,) = new_ids(1)
        self.connection.execute(INSERT, (job_id, json.dumps([number])), prepare=True)

    def copy(self, count: int) -> None:
        lines = [f"{job_id}\tdefault\tbenchmarks.nothing\t[{n}]\n" for n, job_id in enumerate(new_ids(count))]
        with self.connection.cursor() as cursor, cursor.copy(COPY) as copy:
            copy.write("".join(lines))

    def drain(self) -> deque[float]:
        """Drain the table. Returns when each batch was done."""
        return drain(self.connection)


def drain(connection: psycopg.Connection[Any]) -> deque[float]:
    done_at: deque[float] = deque()
    while True:
        rows = connection.execute(CLAIM, (BATCH,), prepare=True).fetchall()
        if not rows:
            return done_at
        for _, _, args in rows:
            _nothing(*args)
        connection.execute(COMPLETE, ([row[0] for row in rows],), prepare=True)
        done_at.append(time.monotonic())


def drain_in_processes(url: str, processes: int, count: int) -> float:
    """Jobs per second of several processes, from their common start to the last batch."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    workers = [context.Process(target=_drain_process, args=(url, barrier)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    barrier.wait(timeout=60)
    for worker in workers:
        worker.join(timeout=120)
    with psycopg.connect(url) as connection:
        query = "SELECT min(started_at), max(finished_at), count(*) FROM floor_job WHERE state = 'succeeded'"
        began, ended, done = connection.execute(query).fetchone() or (datetime.now(UTC),) * 3
    assert done == count, f"{done} of {count} jobs done"
    return float(count / (ended - began).total_seconds())


def _drain_process(url: str, barrier: Any) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT 1")
        barrier.wait(timeout=60)
        drain(connection)


def _nothing(number: int) -> None:
    pass
