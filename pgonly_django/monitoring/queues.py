"""How many jobs are in each state; and for each queue what waits, for how long, what runs, and what its limits
leave."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from heapq import nlargest
from typing import Any, NamedTuple

from django.db import connections
from django.db.models import F, IntegerField, OuterRef, Subquery
from django.db.models.expressions import RawSQL

from pgonly_django.models import JobBatch, Limiter, Queue, Worker
from pgonly_django.models.job import ClockTimestamp, State
from pgonly_django.models.job_rows import FINISHED_STATES
from pgonly_django.queue.candidates import LIMITED_ROW, READY_ROW, SUSPECT_ROW
from pgonly_django.queue.claim import BANDS_OF_ALL
from pgonly_django.queue.health import SAMPLE, oldest_per_queue
from pgonly_django.queue.known_names import KNOWN_QUEUES, known_names
from pgonly_django.queue.limited.gates import PILE
from pgonly_django.tables import qualified


class Counted(NamedTuple):
    """A number of rows that was counted up to a cap."""

    number: int
    has_more: bool = False  # there are more than `number`

    @property
    def label(self) -> str:
        """Returns the number for people: "1,204", or "10,000+" where the cap ended it."""
        return f"{self.number:,}+" if self.has_more else f"{self.number:,}"


def capped(found: int, cap: int) -> Counted:
    """Makes a Counted of a statement that has counted one row beyond its cap if there was one."""
    return Counted(min(found, cap), has_more=found > cap)


OF_A_STATE_AT_MOST = 10_000
NEWEST = 2_000
_STATE_LIMIT = f"LIMIT {OF_A_STATE_AT_MOST + 1}"
# With this many finished jobs there are more than OF_A_STATE_AT_MOST of one state, or all of each were counted.
_FINISHED_LIMIT = f"LIMIT {3 * OF_A_STATE_AT_MOST + 1}"


def _counted(rows: str, limit: str = _STATE_LIMIT) -> str:
    return qualified(f"(SELECT count(*) FROM (SELECT FROM pgonly_job WHERE {rows} {limit}) AS counted)")


# Index: pgonly_job_scheduled, pgonly_job_ready, pgonly_job_suspect, pgonly_job_limited, pgonly_job_running,
# pgonly_job_held, pgonly_job_failed and pgonly_job_cancelled, of each 10,001 entries. Each is sorted as its index is,
# so that PostgreSQL takes that index without statistics too; held_by is set while a job is held. Jobs that succeeded
# have no separate index: they are the finished ones without the others, 30,001 at most, by pgonly_job_finished or
# the first rows of the table. Where those others are too many to be counted, they are those among the newest 2,000.
STATES = qualified(f"""
WITH RECURSIVE limited_bands(queue, priority) AS ({BANDS_OF_ALL.format(row=LIMITED_ROW, bands="limited_bands")}),
counted AS MATERIALIZED (
    SELECT {_counted("state = 'scheduled' ORDER BY run_at")} AS scheduled,
        {_counted(f"{READY_ROW} ORDER BY queue, priority DESC, ready_at, id")}
        + {_counted(f"{SUSPECT_ROW} ORDER BY ready_at")}
        + (SELECT count(*) FROM (SELECT FROM limited_bands AS band CROSS JOIN LATERAL (
            SELECT FROM pgonly_job WHERE {LIMITED_ROW} AND queue = band.queue AND priority = band.priority
            {_STATE_LIMIT}) AS of_band {_STATE_LIMIT}) AS limited) AS ready,
        {_counted("state = 'running' ORDER BY queue")} AS running,
        {_counted("held_by IS NOT NULL ORDER BY held_by, id")} AS held,
        {_counted("state = 'failed' ORDER BY finished_at, id")} AS failed,
        {_counted("state = 'cancelled' ORDER BY id")} AS cancelled
)
SELECT *,
    CASE WHEN greatest(failed, cancelled) <= {OF_A_STATE_AT_MOST} THEN
        {_counted(f"state IN ({FINISHED_STATES})", _FINISHED_LIMIT)} - failed - cancelled
    ELSE (SELECT count(*) FILTER (WHERE state = 'succeeded') FROM (
        SELECT state FROM pgonly_job ORDER BY id DESC LIMIT {NEWEST}) AS newest) END AS succeeded,
    greatest(failed, cancelled) > {OF_A_STATE_AT_MOST}
FROM counted
""")


def jobs_by_state(alias: str) -> dict[State, Counted]:
    """Returns the count of each state, up to OF_A_STATE_AT_MOST, in the order of a job's life. The count of jobs that
    succeeded may be too low, and `has_more` says so, where more than OF_A_STATE_AT_MOST failed or were cancelled."""
    with connections[alias].cursor() as cursor:
        cursor.execute(STATES)
        names = [column.name for column in cursor.description]
        ((*numbers, is_sample),) = cursor.fetchall()
    found = {name: capped(number, OF_A_STATE_AT_MOST) for name, number in zip(names, numbers, strict=False)}
    found["succeeded"] = found["succeeded"]._replace(has_more=found["succeeded"].has_more or is_sample)
    return {state: found[state.value] for state in State}


def open_batches(alias: str) -> Counted:
    """Returns the count of the batches that have not finished. Index: pgonly_batch_open."""
    found = JobBatch.objects.using(alias).filter(finished_at__isnull=True).values("pk")
    return capped(found[: OF_A_STATE_AT_MOST + 1].count(), OF_A_STATE_AT_MOST)


COUNTED_AT_MOST = 1_000  # of each kind; a queue may have millions
QUEUES_AT_MOST = 100

# Index: pgonly_job_ready, pgonly_job_limited, pgonly_job_suspect or pgonly_job_running, one range for each queue.
_COUNT = qualified("""(SELECT count(*)::int FROM (
    SELECT FROM pgonly_job WHERE {row} AND queue = {queue} LIMIT {limit}) AS counted)""")


def count_of(queue: str, *rows: str) -> str:
    """Returns SQL for the number of jobs of the `rows` of the queue whose name is the expression `queue`."""
    return " + ".join(_COUNT.format(row=row, queue=queue, limit=COUNTED_AT_MOST + 1) for row in rows)


# Those that are due and still scheduled, as the age of the oldest counts them (queue/health.py). Index:
# pgonly_job_scheduled, whose first rows are read.
_DUE = qualified(f"""(SELECT count(*)::int FROM (
    SELECT queue FROM pgonly_job WHERE state = 'scheduled' AND run_at <= statement_timestamp()
    ORDER BY run_at LIMIT {SAMPLE}) AS due WHERE due.queue = {{queue}})""")


def _waiting_of(queue: str) -> str:
    return f"{count_of(queue, READY_ROW, LIMITED_ROW, SUSPECT_ROW)} + {_DUE.format(queue=queue)}"


RUNNING_ROW = "state = 'running'"
_TOKENS = qualified("""
(SELECT least(greatest(1, rate_count * {pile}), left_over.tokens + rate_count / rate_seconds
    * greatest(date_part('epoch', clock_timestamp()) - date_part('epoch', left_over.refilled_at), 0))
FROM pgonly_queue_tokens AS left_over WHERE left_over.queue = pgonly_queue.name)
""").format(pile=PILE)


def _of_row(sql: str, **options: Any) -> RawSQL:
    return RawSQL(sql, [], **options)  # noqa: S611 - no text but ours


_NAME = qualified("pgonly_queue") + ".name"
# For annotate(): what a row of Queue has waiting and running, and what holds it back.
QUEUE_USE = {
    "waiting": _of_row(_waiting_of(_NAME), output_field=IntegerField()),
    "running": _of_row(count_of(_NAME, RUNNING_ROW), output_field=IntegerField()),
    "tokens": _of_row(_TOKENS),
    "blocked_until": Subquery(
        Limiter.objects.filter(name=OuterRef("limiter"), blocked_until__gt=ClockTimestamp()).values(
            "blocked_until"
        )[:1]
    ),
}


class QueueFigures(NamedTuple):
    name: str
    waiting: Counted
    running: Counted
    oldest_seconds: float | None  # of the job that has waited longest; None: none waits
    paused_at: datetime | None
    row: Any  # with QUEUE_USE; see unsaved_rows()


# Index: pgonly_job_ready, pgonly_job_limited, pgonly_job_suspect and pgonly_job_running, one range for each queue.
COUNTS = qualified(f"""
SELECT queue, {_waiting_of("given.queue")}, {count_of("given.queue", RUNNING_ROW)}
FROM unnest(%(queues)s::text[]) AS given(queue)
""")


def queues(alias: str) -> list[QueueFigures]:
    """Returns the queues that have a row, QUEUES_AT_MOST, the paused ones first, those with jobs that KNOWN_QUEUES
    finds, and those in which a job has waited longest, QUEUES_AT_MOST. Counts up to 1,000 jobs of each kind in each."""
    of_rows: Any = Queue.objects.using(alias).annotate(**QUEUE_USE)
    rows = list(of_rows.order_by(F("paused_at").asc(nulls_last=True), "name")[:QUEUES_AT_MOST])
    oldest, by_name = oldest_per_queue(alias), {row.name: row for row in rows}
    longest = nlargest(QUEUES_AT_MOST, oldest, key=oldest.__getitem__)
    others = {*known_names(alias, KNOWN_QUEUES), *longest} - set(by_name)
    if len(rows) == QUEUES_AT_MOST:
        by_name |= {row.name: row for row in of_rows.filter(name__in=others)}
    by_name |= {row.name: row for row in unsaved_rows(alias, others - set(by_name))}
    return [
        QueueFigures(
            name=name,
            waiting=capped(row.waiting, COUNTED_AT_MOST),
            running=capped(row.running, COUNTED_AT_MOST),
            oldest_seconds=oldest.get(name),
            paused_at=row.paused_at,
            row=row,
        )
        for name, row in sorted(by_name.items())
    ]


def known_queues(alias: str) -> set[str]:
    """Returns the names of queues that have a worker, as far as it names them, or a job that KNOWN_QUEUES finds."""
    of_workers = Worker.objects.using(alias).live().values_list("queues", flat=True)
    names = {*known_names(alias, KNOWN_QUEUES), *(name for names in of_workers for name in names)}
    return names - {""}  # no page has that name


def unsaved_row(alias: str, name: str) -> Any:
    """Returns the stand-in for this queue; None where it has neither a worker, jobs that run or wait, nor a job that
    KNOWN_QUEUES finds."""
    if not name or "\x00" in name:
        return None
    (row,) = unsaved_rows(alias, [name])
    return row if row.waiting or row.running or name in known_queues(alias) else None


def unsaved_rows(alias: str, names: Iterable[str]) -> list[Any]:
    """Returns stand-ins, with QUEUE_USE, for these queues, which have no row and so no limits."""
    if not (listed := sorted(names)):
        return []
    with connections[alias].cursor() as cursor:
        cursor.execute(COUNTS, {"queues": listed})
        return [_unsaved(*counts) for counts in cursor.fetchall()]


def _unsaved(name: str, waiting: int, running: int) -> Any:
    row: Any = Queue(name=name)
    row.tokens = row.blocked_until = None
    row.waiting, row.running = waiting, running
    return row
