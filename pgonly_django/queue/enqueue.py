"""The INSERT of a job: one statement in the caller's transaction, or one COPY for many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import psycopg
from django.db import connections, transaction
from django.utils import timezone
from psycopg import sql

from pgonly_django.compat import new_ids
from pgonly_django.current_job import current_job
from pgonly_django.database import notify
from pgonly_django.database.on_django import FollowUp, first_row_on
from pgonly_django.database.statement import Statement
from pgonly_django.tables import qualified

T = TypeVar("T")
# A time; also as microseconds since 1970, which are digits if they come straight from the server.
Moment = datetime | int | str

CLOSE = timedelta(seconds=1)
# The number of rows of a COPY that are sent at a time: the server takes them while the next ones are made.
SENT_TOGETHER = 500
BACKSLASH, ESCAPED = "\\", "\\\\"
COPY_ESCAPES = str.maketrans({BACKSLASH: ESCAPED, "\t": "\\t", "\n": "\\n", "\r": "\\r"})
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What every new job has alike. Its other columns are id, args and kwargs, the fields of Template, those of NewJob.more,
# and what follows from run_at; no other statement makes a job.
NEW = {"lease_epoch": "0", "attempt": "0", "interruptions": "0", "crashes": "0", "errors": "[]", "log": "[]"}
NEW_COLUMNS, NEW_VALUES = ", ".join(NEW), ", ".join(f"'{value}'" for value in NEW.values())

# The column enqueued_by, before an id or a name: the job whose code enqueued this one, or that has failed and of which
# this one is the dead letter; the job that a person ran again as this one; the schedule; the batch that has ended.
OF_JOB, OF_COPY, OF_SCHEDULE, OF_BATCH = "job:", "again:", "schedule:", "batch:"

# The parameters are the values of one call: for most jobs these three. Those of its template are in the text.
INSERT = qualified(f"""
INSERT INTO pgonly_job (id, args, kwargs, {{columns}}, state, {NEW_COLUMNS})
VALUES (%(id)s, %(args)s, %(kwargs)s, {{values}}, {{state}}, {NEW_VALUES})
RETURNING (extract(epoch FROM enqueued_at) * 1000000)::int8
""")
# The database's clock decides: the same clock promotes the job.
READY_OR_SCHEDULED = "CASE WHEN {run_at} > clock_timestamp() THEN 'scheduled' ELSE 'ready' END"


@dataclass(frozen=True, slots=True)
class Template:
    """What all jobs enqueued through one task have in common: columns of pgonly_job. `options` is JSON text. A column
    that is None is not in the INSERT: columns that most tasks leave NULL cost them nothing."""

    backend: str
    queue: str
    task: str
    priority: int
    max_attempts: int
    options: str | None = None
    run_at: datetime | None = None
    max_runtime: timedelta | None = None
    retention: timedelta | None = None
    failed_retention: timedelta | None = None
    dead_letter_queue: str | None = None
    insert: Statement = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "insert", self.insert_with(()))

    def insert_with(self, own: Sequence[str]) -> Statement:
        """Returns the INSERT of a job with the columns `own` of its call. The values of the template are written into
        it once, quoted by psycopg: ten parameters and empty columns less save 60 of 560 us for every job."""
        values = {name: getattr(self, name) for name in TEMPLATE_COLUMNS}
        quoted = {n: sql.quote(value).replace("%", "%%") for n, value in values.items() if value is not None}
        state = READY_OR_SCHEDULED.format(**quoted) if self.run_at else "'ready'"
        columns = quoted | {name: f"%({name})s" for name in own}
        return _statement(
            INSERT.format(columns=", ".join(columns), values=", ".join(columns.values()), state=state)
        )

    def payloads(self, enqueued_at: datetime, ready: str = "") -> tuple[str, ...]:
        """Returns the notifications that wake workers for a job of this template. `ready` stands for notify.ready().
        Within a second of run_at there are two, since the database's clock chose the state."""
        ready = ready or notify.ready(self.queue)
        if self.run_at is None or self.run_at < enqueued_at - CLOSE:
            return (ready,)
        return (notify.DUE,) if self.run_at > enqueued_at + CLOSE else (ready, notify.DUE)


TEMPLATE_COLUMNS = tuple(each.name for each in fields(Template) if each.init)
# Every thread and every job makes templates; the same text is one statement for all of them.
_statement = lru_cache(maxsize=1024)(Statement)
# To write the text takes 20 us, and most jobs with such columns have the same ones.
_insert_with = lru_cache(maxsize=1024)(Template.insert_with)


# The columns that may depend on the arguments of a call. None of them is a column of the template.
CALL_COLUMNS = ("concurrency_key", "concurrency_limit", "slots")
UNIQUE_COLUMNS = ("unique_key", "unique_while", "unique_until")
KEY_COLUMNS = (*CALL_COLUMNS, *UNIQUE_COLUMNS)


class Unique(NamedTuple):
    """The jobs that a job excludes. `key`: those with the same one. `until`: a value of UniqueWhile. `period`: for this
    time from its enqueue, None: as long as its state says. `debounce`: a later call changes the job, and it waits this
    long for the next one."""

    key: str
    until: str
    period: timedelta | None = None
    debounce: timedelta | None = None


class NewJob(NamedTuple):
    """A job before it has a row. Its arguments are JSON text. `more`: further columns: some of CALL_COLUMNS, and what
    it carries (carried.py), without enqueued_by where that is the job that runs here. It and `unique` are None for most
    jobs."""

    template: Template
    args: str
    kwargs: str
    more: Mapping[str, Any] | None = None
    unique: Unique | None = None

    def carrying(self, **columns: str | None) -> NewJob:
        return self._replace(more={**(self.more or {}), **columns})

    def enqueued_by(self, origin: str) -> NewJob:
        """Returns this job as enqueued by `origin`, not by the job that may run here."""
        return self.carrying(enqueued_by=origin)

    @property
    def ready(self) -> str:
        """The notification that the job is ready. A job with `slots` is taken by limited claims."""
        return (notify.limited if self.more and "slots" in self.more else notify.ready)(self.template.queue)

    def payloads(self, enqueued_at: datetime) -> tuple[str, ...]:
        """See Template.payloads()."""
        return self.template.payloads(enqueued_at, self.ready)


class Members(NamedTuple):
    """Jobs that are about to become members of a batch: how many, and what writes them, given the id of the batch."""

    size: int
    insert: Callable[[str], Any]


# `columns`: those of the templates and of the calls that at least one job of the batch sets.
COPY = qualified(f"""
COPY pgonly_job (id, args, kwargs, state, ready_at, enqueued_at, {NEW_COLUMNS}, {{columns}}) FROM STDIN
""")


def insert(connection: Any, job: NewJob, follow_up: FollowUp | None = None) -> tuple[str, Moment]:
    """Writes one job, which is not unique, in the caller's transaction on this connection of Django, and returns its id
    and its enqueue time: see moment_of(). The caller wakes the workers, unless the `follow_up` did: see first_row()."""
    (job_id,) = new_ids(1)
    params, statement = {"id": job_id, "args": job.args, "kwargs": job.kwargs}, job.template.insert
    if job.more or current_job.get() is not None:
        params |= (more := {**running_job(), **(job.more or {})})
        statement = _insert_with(job.template, tuple(more))
    row = first_row_on(connection, statement, params, follow_up)
    assert row is not None
    return job_id, row[0]


def insert_beside(connection: psycopg.Connection[Any], job: NewJob) -> tuple[str, tuple[str, ...]]:
    """Writes one job on a connection of a worker, in its transaction, and returns its id and the notifications to send
    after the commit."""
    (job_id,) = new_ids(1)
    more = job.more or {}
    statement = _insert_with(job.template, tuple(more))
    params = {"id": job_id, "args": job.args, "kwargs": job.kwargs, **more}
    ((enqueued_at,),) = connection.execute(statement.sql, params, prepare=False).fetchall()
    return job_id, job.payloads(moment_of(enqueued_at))


def running_job() -> dict[str, str]:
    """Returns the column enqueued_by for jobs that the code of a job enqueues here; empty outside of jobs."""
    run = current_job.get()
    return {} if run is None else {"enqueued_by": f"{OF_JOB}{run.job.id}"}


def moment_of(enqueued_at: Moment) -> datetime:
    """Makes the datetime when it is read: few callers of enqueue() read it."""
    return (
        enqueued_at if isinstance(enqueued_at, datetime) else EPOCH + timedelta(microseconds=int(enqueued_at))
    )


def insert_many(
    alias: str,
    jobs: Sequence[NewJob],
    templates: Sequence[Template],
    results_of: Callable[[Sequence[str], datetime], list[T]],
    alike: Mapping[str, str] | None,
) -> tuple[list[T], datetime]:
    """See insert(). Writes all `jobs` in one COPY, all or none, in order; their enqueue time is the same. `templates`:
    see templates_of(). `results_of` is called with the ids and that time while the server takes the rows. `alike`:
    columns that all of them have alike."""
    ids = new_ids(len(jobs))
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now = aware(cursor.fetchone()[0])
        columns, pieces = _copy_text(ids, jobs, templates, now, {**running_job(), **(alike or {})})
        with cursor.copy(COPY.format(columns=columns)) as copy:
            for piece in pieces:
                copy.write(piece)
            results = results_of(ids, now)
    return results, now


def aware(moment: datetime) -> datetime:
    """Returns an aware time. With USE_TZ = False times have no zone, and mean the default one."""
    is_aware = timezone.is_aware(moment)
    return moment if is_aware else timezone.make_aware(moment, timezone.get_default_timezone())


def templates_of(jobs: Iterable[NewJob]) -> list[Template]:
    """Returns each template once, by its id(): to compare templates costs more than all else here."""
    return list({id(job.template): job.template for job in jobs}.values())


def payloads_of(jobs: Sequence[NewJob], templates: Sequence[Template], enqueued_at: datetime) -> set[str]:
    """See NewJob.payloads(): those of all `jobs`."""
    if not any(job.more for job in jobs):
        return {payload for template in templates for payload in template.payloads(enqueued_at)}
    kinds = {(id(job.template), job.ready): job for job in jobs}.values()
    return {payload for job in kinds for payload in job.payloads(enqueued_at)}


def _copy_text(
    ids: Sequence[str],
    jobs: Sequence[NewJob],
    templates: Sequence[Template],
    now: datetime,
    given: Mapping[str, str],
) -> tuple[str, Iterator[str]]:
    """Returns the columns that are not NULL in every row, and the rows in COPY's text format, made piece by piece.
    psycopg's write_row() takes four times as long."""
    more = sorted({name for job in jobs if job.more for name in job.more})
    alike = {name: value for name, value in given.items() if name not in more}
    columns = [n for n in TEMPLATE_COLUMNS if any(getattr(each, n) is not None for each in templates)]
    ends = {id(template): _end_of_line(template, now, columns, alike) for template in templates}

    def rows(start: int) -> str:
        some = slice(start, start + SENT_TOGETHER)
        # JSON has no line breaks and no tabs.
        lines = [
            f"{job_id}\t{args.replace(BACKSLASH, ESCAPED)}\t{kwargs.replace(BACKSLASH, ESCAPED)}\t{ends[id(template)]}"
            for job_id, (template, args, kwargs, _, _) in zip(ids[some], jobs[some], strict=True)
        ]
        if more:
            lines = [
                _with_more(line, job.more or {}, more) for line, job in zip(lines, jobs[some], strict=True)
            ]
        return "".join(lines)

    return ", ".join([*columns, *alike, *more]), map(rows, range(0, len(jobs), SENT_TOGETHER))


def _with_more(line: str, more: Mapping[str, Any], columns: Sequence[str]) -> str:
    return line[:-1] + "".join(f"\t{_copy_value(more.get(name))}" for name in columns) + "\n"


def _end_of_line(template: Template, now: datetime, columns: Sequence[str], alike: Mapping[str, str]) -> str:
    """Returns all columns of `template`, which are the same for each of its jobs, and those that all jobs have
    `alike`."""
    is_later = template.run_at is not None and template.run_at > now
    # As text: `@task` imports this module, perhaps before the models can be loaded.
    state = "scheduled" if is_later else "ready"
    values = [state, now, now, *NEW.values(), *(getattr(template, name) for name in columns), *alike.values()]
    return "\t".join(map(_copy_value, values)) + "\n"


def _copy_value(value: object) -> str:
    match value:
        case None:
            return "\\N"
        case str():
            return value.translate(COPY_ESCAPES)
        case datetime() | timedelta():
            return as_text(value)
        case _:
            return format(value)


def as_text(value: datetime | timedelta) -> str:
    """Returns the value as PostgreSQL reads it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"
