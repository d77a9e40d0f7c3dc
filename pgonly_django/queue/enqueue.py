"""The INSERT of a job: one statement in the caller's transaction, or one COPY for many."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from django.db import connections, transaction
from django.utils import timezone
from psycopg import sql

from pgonly_django.database import notify
from pgonly_django.database.libpq import Statement
from pgonly_django.database.on_django import Errand, first_row

UUID_VARIANT = 0b10 << 62
CLOSE = timedelta(seconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# The three values are one call's, the rest its template's.
INSERT = """
INSERT INTO pgonly_job (id, args, kwargs, {columns}, state, lease_epoch, attempt, interruptions, crashes, errors, log)
VALUES (%(id)s, %(args)s, %(kwargs)s, {values}, {state}, 0, 0, 0, 0, '[]', '[]')
RETURNING (extract(epoch FROM enqueued_at) * 1000000)::int8
"""
# Decided by the database's clock, which is the one that will promote it.
READY_OR_SCHEDULED = "CASE WHEN {run_at} > clock_timestamp() THEN 'scheduled' ELSE 'ready' END"


@dataclass(frozen=True, slots=True)
class Template:
    """What all jobs enqueued through one task have in common. `options` is JSON text."""

    backend: str
    queue: str
    task: str
    priority: int
    max_attempts: int
    options: str | None = None
    run_at: datetime | None = None
    max_runtime: timedelta | None = None
    retention: timedelta | None = None
    insert: Statement = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Write its values into the statement once, quoted by psycopg: ten parameters and empty columns less
        to bind and parse are 60 of 560 us for every job."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        quoted = {n: sql.quote(value).replace("%", "%%") for n, value in values.items() if value is not None}
        state = READY_OR_SCHEDULED.format(**quoted) if self.run_at else "'ready'"
        statement = INSERT.format(columns=", ".join(quoted), values=", ".join(quoted.values()), state=state)
        object.__setattr__(self, "insert", _statement(statement))

    def payloads(self, enqueued_at: datetime) -> tuple[str, ...]:
        """What its workers are woken with. Close to run_at with both words: the row's state was a matter of us."""
        if self.run_at is None or self.run_at < enqueued_at - CLOSE:
            return (notify.ready(self.queue),)
        if self.run_at > enqueued_at + CLOSE:
            return (notify.DUE,)
        return (notify.ready(self.queue), notify.DUE)


# The same text is one statement for all threads and jobs, each of which makes templates of its own.
_statement = lru_cache(maxsize=1024)(Statement)


class NewJob(NamedTuple):
    """A job before it has a row. Its arguments are JSON text."""

    template: Template
    args: str
    kwargs: str


COPY = """
COPY pgonly_job (id, args, kwargs, backend, queue, task, priority, max_attempts, options, run_at, max_runtime,
    retention, state, ready_at, enqueued_at, lease_epoch, attempt, interruptions, crashes, errors, log)
FROM STDIN
"""


def insert(alias: str, job: NewJob, errand: Errand | None = None) -> tuple[str, datetime]:
    """Write one job in the caller's transaction: its id and enqueue time. The caller wakes the workers, unless the
    `errand` did: see first_row()."""
    (job_id,) = new_ids(1)
    params = {"id": job_id, "args": job.args, "kwargs": job.kwargs}
    row = first_row(alias, job.template.insert, params, errand)
    assert row is not None
    return job_id, EPOCH + timedelta(microseconds=int(row[0]))


def insert_many(alias: str, jobs: Sequence[NewJob]) -> tuple[list[str], datetime]:
    """See insert(). Write all `jobs` in one COPY, all or none, in order; their enqueue time is the same."""
    ids = new_ids(len(jobs))
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now = aware(cursor.fetchone()[0])
        with cursor.copy(COPY) as copy:
            copy.write(_copy_text(ids, jobs, now))
    return ids, now


def aware(moment: datetime) -> datetime:
    """With USE_TZ = False times come without a zone, and mean the default one."""
    if timezone.is_aware(moment):
        return moment
    return timezone.make_aware(moment, timezone.get_default_timezone())


def new_ids(count: int) -> list[str]:
    """`count` ascending UUIDs of version 7: 60 bits of time, so a batch keeps its order; 62 random bits."""
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


def _copy_text(ids: Sequence[str], jobs: Sequence[NewJob], now: datetime) -> str:
    """The rows in COPY's text format. Written out here: psycopg's write_row() takes four times as long."""
    ends: dict[int, str] = {}
    lines = []
    for job_id, (template, args, kwargs) in zip(ids, jobs, strict=True):
        end = ends.get(id(template)) or ends.setdefault(id(template), _end_of_line(template, now))
        lines.append(f"{job_id}\t{_escape(args)}\t{_escape(kwargs)}\t{end}")
    return "".join(lines)


def _end_of_line(template: Template, now: datetime) -> str:
    """The columns from `backend` on, the same for every job of `template`."""
    state = "scheduled" if template.run_at is not None and template.run_at > now else "ready"
    names = "\t".join(_escape(name) for name in (template.backend, template.queue, template.task))
    return (
        f"{names}\t{template.priority}\t{template.max_attempts}\t{_or_null(template.options)}\t"
        f"{_time(template.run_at)}\t{_interval(template.max_runtime)}\t{_interval(template.retention)}\t"
        f"{state}\t{now.isoformat()}\t{now.isoformat()}\t0\t0\t0\t0\t[]\t[]\n"
    )


def _escape(value: str) -> str:
    if "\\" in value or "\t" in value or "\n" in value or "\r" in value:
        value = value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return value


def _or_null(value: str | None) -> str:
    return "\\N" if value is None else _escape(value)


def _time(value: datetime | None) -> str:
    return "\\N" if value is None else value.isoformat()


def _interval(value: timedelta | None) -> str:
    return "\\N" if value is None else f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"
