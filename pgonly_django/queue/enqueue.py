"""The INSERT of a job: one statement in the caller's transaction, or one COPY for many."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connections, transaction

from pgonly_django import wake

UUID_VARIANT = 0b10 << 62


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job before it has a row. JSON columns are text already."""

    backend: str
    queue: str
    task: str
    args: str
    kwargs: str
    priority: int
    max_attempts: int
    options: str | None = None
    run_at: datetime | None = None
    max_runtime: timedelta | None = None
    retention: timedelta | None = None


# The state is decided by the database's clock, which is the one that will promote it.
INSERT = """
INSERT INTO pgonly_job (id, backend, queue, task, args, kwargs, priority, max_attempts, options, run_at,
    max_runtime, retention, state, lease, attempt, interruptions, crashes, errors, log)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
    CASE WHEN %s::timestamptz > clock_timestamp() THEN 'scheduled' ELSE 'ready' END, 0, 0, 0, 0, '[]', '[]')
RETURNING enqueued_at
"""

COPY = """
COPY pgonly_job (id, backend, queue, task, args, kwargs, priority, max_attempts, options, run_at,
    max_runtime, retention, state, ready_at, enqueued_at, lease, attempt, interruptions, crashes, errors, log)
FROM STDIN
"""


def insert(alias: str, job: NewJob) -> tuple[str, datetime]:
    """Write one job in the caller's transaction; workers are woken when it commits. Its id and enqueue time."""
    (job_id,) = new_ids(1)
    with connections[alias].cursor() as cursor:
        cursor.execute(
            INSERT,
            (
                job_id, job.backend, job.queue, job.task, job.args, job.kwargs, job.priority, job.max_attempts,
                job.options, job.run_at, job.max_runtime, job.retention, job.run_at,
            ),
        )  # fmt: skip
        (enqueued_at,) = cursor.fetchone()
    wake.wake_after_commit(alias, _payload(job))
    return job_id, enqueued_at


def insert_many(alias: str, jobs: Sequence[NewJob]) -> tuple[list[str], datetime]:
    """Write all `jobs` in one COPY, all or none, in order. Their ids and their common enqueue time."""
    ids = new_ids(len(jobs))
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (now,) = cursor.fetchone()
        with cursor.copy(COPY) as copy:
            copy.write(_copy_text(ids, jobs, now))
        for payload in {_payload(job) for job in jobs}:
            wake.wake_after_commit(alias, payload)
    return ids, now


def new_ids(count: int) -> list[str]:
    """`count` ascending UUIDs of version 7: 60 bits of time, so that one batch keeps its order; 62 random bits."""
    # 2**12 steps a millisecond, as in PostgreSQL's own uuidv7(); a batch counts on from the present.
    first = (time.time_ns() << 12) // 1_000_000
    random = os.urandom(8 * count)
    ids = []
    for place in range(count):
        step = first + place
        high = (step >> 12) << 16 | 0x7000 | step & 0xFFF
        low = int.from_bytes(random[8 * place : 8 * place + 8], "big") >> 2 | UUID_VARIANT
        digits = f"{high:016x}{low:016x}"
        ids.append(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")
    return ids


def _payload(job: NewJob) -> str:
    return wake.ready(job.queue) if job.run_at is None else wake.DUE


def _copy_text(ids: Sequence[str], jobs: Sequence[NewJob], now: datetime) -> str:
    """The rows in COPY's text format. Written out here: psycopg's write_row() takes four times as long."""
    text, stamp = io.StringIO(), now.isoformat()
    for job_id, job in zip(ids, jobs, strict=True):
        state = "scheduled" if job.run_at is not None and job.run_at > now else "ready"
        text.write(
            f"{job_id}\t{_escape(job.backend)}\t{_escape(job.queue)}\t{_escape(job.task)}\t"
            f"{_escape(job.args)}\t{_escape(job.kwargs)}\t{job.priority}\t{job.max_attempts}\t"
            f"{_or_null(job.options)}\t{_time(job.run_at)}\t{_interval(job.max_runtime)}\t{_interval(job.retention)}\t"
            f"{state}\t{stamp}\t{stamp}\t0\t0\t0\t0\t[]\t[]\n"
        )
    return text.getvalue()


def _escape(value: str) -> str:
    if "\\" in value or "\t" in value or "\n" in value or "\r" in value:
        value = value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return value


def _or_null(value: str | None) -> str:
    return "\\N" if value is None else _escape(value)


def _time(value: datetime | None) -> str:
    return "\\N" if value is None else value.isoformat()


def _interval(value: timedelta | None) -> Any:
    return "\\N" if value is None else f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"
