"""The reasons why one job waits: what keeps it from running, the strongest reason first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from django.db import connections
from django.db.models import F
from django.utils import timezone

from pgonly_django.models import Budget, Job, Queue, State, Wait, Worker
from pgonly_django.models.budget import HELD_BY
from pgonly_django.models.job import WAITING, ClockTimestamp
from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.models.waits import KEY_OF_BATCH
from pgonly_django.monitoring.conditions import QUEUE_UNSERVED, WAITS_FORGOTTEN, WAITS_READ
from pgonly_django.monitoring.queues import QUEUE_USE, capped
from pgonly_django.queue.candidates import LIMITED_ROW, READY_ROW
from pgonly_django.tables import qualified

COUNTED_AT_MOST = 1_000
IGNORED_AFTER = timedelta(seconds=QUEUE_UNSERVED.limit)


class Kind(StrEnum):
    """The kinds of things that keep a job from running, the strongest first. After each: the facts that its Reason
    has."""

    DUE = "due"  # run_at, which is ahead
    OVERDUE = "overdue"  # run_at: a worker should have made it ready
    HELD = "held"  # by
    BUDGET = "budget"  # budget, the row or None; name
    WAITS = "waits"  # wait, the row: the job itself waits for an event or a time
    UNSERVED = "unserved"  # queue: no live worker takes jobs of it
    TOO_FEW_THREADS = "too few threads"  # slots; threads, the most that a worker has
    PAUSED = "paused"  # queue, since
    COOLS_DOWN = "cools down"  # limiter, until
    FULL = "full"  # queue, running, limit
    RATE = "rate"  # queue, count, seconds
    KEY_FULL = "key full"  # key, running, limit
    SUSPECT = "suspect"  # crashes
    AHEAD = "ahead"  # jobs (Counted): those that come first, of its queue or of its key
    BUSY = "busy"  # queue, threads: all that serve it run jobs
    ASLEEP = "asleep"  # workers: all that serve the queue have no connection
    IGNORED = "ignored"  # queue: none of these, and still no worker has taken it for IGNORED_AFTER
    SOON = "soon"  # none of these


@dataclass(frozen=True, slots=True)
class Reason:
    kind: Kind
    facts: dict[str, Any] = field(default_factory=dict)


def why_it_waits(alias: str, job: Job) -> list[Reason]:
    """Returns the reasons of a job that is scheduled, ready or held; none for others. Reads the rows of its queue and
    of the live workers, and counts up to 1,000 jobs of its key and before it."""
    order = list(Kind)
    return sorted(_reasons(alias, job), key=lambda reason: order.index(reason.kind))


def _reasons(alias: str, job: Job) -> Iterator[Reason]:
    waits = []
    if job.state in (State.SCHEDULED, State.HELD):
        waits = waits_of(alias, [job.pk])
        yield from (Reason(Kind.WAITS, {"wait": wait}) for wait in waits)
    if job.state == State.SCHEDULED and job.run_at is not None:
        if job.run_at <= timezone.now():
            yield Reason(Kind.OVERDUE, {"run_at": job.run_at})
            yield from _of_its_workers(alias, job)
        elif any(wait.is_answered for wait in waits):
            yield from _of_its_workers(alias, job)
        elif not waits:
            yield Reason(Kind.DUE, {"run_at": job.run_at})
    elif job.state == State.HELD:
        yield _held(alias, job)
    elif job.state == State.READY:
        yield from list(_of_ready(alias, job)) or [_without_a_reason(job)]


def waits_of(alias: str, job_ids: Iterable[Any]) -> list[Any]:
    """Returns what these jobs wait for, also what is answered. Index: pgonly_wait_once, one range for each job."""
    return list(Wait.objects.using(alias).current().filter(job__in=list(job_ids)).order_by("began_at"))


def open_questions(alias: str, limit: int) -> list[Wait]:
    """Returns the oldest waits for an answer of a person, with their jobs. Index: pgonly_wait_asked, in its order."""
    return list(Wait.objects.using(alias).open().for_people().with_jobs().order_by("began_at")[:limit])


def forgotten_waits(
    alias: str, seconds: float = WAITS_FORGOTTEN.limit, queues: Sequence[str] = ()
) -> list[Any]:
    """Returns the waits for an event that have no deadline and are older than that, WAITS_READ and one more, the oldest
    first; each with `now`, the database's clock. Of the `queues`, or of all. Those for a batch are left out: its jobs
    end it. Reads all waits."""
    waits: Any = Wait.objects.using(alias).open().annotate(now=ClockTimestamp())
    latest = ClockTimestamp() - timedelta(seconds=seconds)
    waits = waits.filter(key__isnull=False, until=None, began_at__lt=latest).exclude(key__regex=KEY_OF_BATCH)
    waits = waits.filter(job__queue__in=queues) if queues else waits
    return list(waits.order_by("began_at")[: WAITS_READ + 1])


def _without_a_reason(job: Job) -> Reason:
    is_ignored = timezone.now() - job.waiting_since > IGNORED_AFTER
    return Reason(Kind.IGNORED, {"queue": job.queue}) if is_ignored else Reason(Kind.SOON)


def _held(alias: str, job: Job) -> Reason:
    by = job.held_by or ""
    if not by.startswith(HELD_BY):
        return Reason(Kind.HELD, {"by": by})
    name = by.removeprefix(HELD_BY)
    budget = Budget.objects.using(alias).filter(name=name).with_spent_now().first()
    return Reason(Kind.BUDGET, {"name": name, "budget": budget})


def why_queues_wait(alias: str, names: Sequence[str]) -> dict[str, Reason]:
    """Returns the strongest reason why no job of a queue starts that has no reason of its own, for those of these
    queues that have one. Reads the live workers and the rows of the queues."""
    claiming = list(Worker.objects.using(alias).claiming())
    rows = {row.name: row for row in _queues(alias, names)}
    order, found = list(Kind), {}
    for name in names:
        serving = [worker for worker in claiming if not worker.queues or name in worker.queues]
        reasons = [*_of_workers(name, 1, serving), *_of_queue(rows.get(name))]
        if reasons:
            found[name] = min(reasons, key=lambda reason: order.index(reason.kind))
    return found


def _queues(alias: str, names: Iterable[str]) -> Any:
    return Queue.objects.using(alias).annotate(**QUEUE_USE).filter(name__in=names)


def _of_ready(alias: str, job: Job) -> Iterator[Reason]:
    yield from _of_its_workers(alias, job)
    yield from _of_queue(_queues(alias, [job.queue]).first())
    yield from _of_key(alias, job)
    if job.crashes >= SUSPECT_FROM:
        yield Reason(Kind.SUSPECT, {"crashes": job.crashes})
    if ahead := _ahead(alias, job):
        yield Reason(Kind.AHEAD, {"jobs": capped(ahead, COUNTED_AT_MOST)})


def _of_its_workers(alias: str, job: Job) -> Iterator[Reason]:
    serving = list(Worker.objects.using(alias).claiming().serving(job.queue))
    return _of_workers(job.queue, job.slots or 1, serving)


def _of_workers(queue: str, slots: int, serving: Sequence[Worker]) -> Iterator[Reason]:
    if not serving:
        yield Reason(Kind.UNSERVED, {"queue": queue})
        return
    most = max(worker.threads for worker in serving)
    if most < slots:
        yield Reason(Kind.TOO_FEW_THREADS, {"slots": slots, "threads": most})
    elif all(worker.sleeping_since for worker in serving):
        yield Reason(Kind.ASLEEP, {"workers": len(serving)})
    elif all(worker.running + slots > worker.threads for worker in serving):
        threads = sum(worker.threads for worker in serving)
        yield Reason(Kind.BUSY, {"queue": queue, "threads": threads})


def _of_queue(queue: Any) -> Iterator[Reason]:
    """`queue`: its row with QUEUE_USE; None: it has none, and no limits."""
    if queue is None:
        return
    if queue.paused_at is not None:
        yield Reason(Kind.PAUSED, {"queue": queue.name, "since": queue.paused_at})
    if queue.blocked_until is not None:
        yield Reason(Kind.COOLS_DOWN, {"limiter": queue.limiter, "until": queue.blocked_until})
    if queue.max_running is not None and queue.running >= queue.max_running:
        facts = {"queue": queue.name, "running": queue.running, "limit": queue.max_running}
        yield Reason(Kind.FULL, facts)
    if queue.tokens is not None and queue.tokens < 1:
        facts = {"queue": queue.name, "count": queue.rate_count, "seconds": queue.rate_seconds}
        yield Reason(Kind.RATE, facts)


def _of_key(alias: str, job: Job) -> Iterator[Reason]:
    """Returns the reason of its key, which others have or keep. Index: pgonly_job_limited_running, pgonly_wait_kept."""
    if job.concurrency_key is None:
        return
    limit = job.concurrency_limit or 1
    of_key = Job.objects.using(alias).filter(slots__isnull=False, concurrency_key=job.concurrency_key)
    running = of_key.filter(state=State.RUNNING)[: COUNTED_AT_MOST + 1].count()
    kept = Wait.objects.using(alias).filter(kept_key=job.concurrency_key, lease_epoch=F("job__lease_epoch"))
    keeping = kept.filter(job__state__in=WAITING).values_list("job_id", flat=True).distinct()
    running += keeping.count()
    if running >= limit and job.pk not in keeping:
        yield Reason(Kind.KEY_FULL, {"key": job.concurrency_key, "running": running, "limit": limit})


_CAPPED = f"LIMIT {COUNTED_AT_MOST + 1}"
# Index: pgonly_job_ready, two ranges of it: the higher priorities of the queue, and what is older at the job's own.
AHEAD = qualified(f"""
SELECT (SELECT count(*) FROM (
        SELECT FROM pgonly_job WHERE {READY_ROW} AND queue = %(queue)s AND priority > %(priority)s {_CAPPED}) AS higher)
    + (SELECT count(*) FROM (
        SELECT FROM pgonly_job WHERE {READY_ROW} AND queue = %(queue)s AND priority = %(priority)s
            AND (ready_at, id) < (%(ready_at)s::timestamptz, %(id)s::uuid) {_CAPPED}) AS older)
""")
# Index: pgonly_job_limited, one range of it.
AHEAD_OF_KEY = qualified(f"""
SELECT count(*) FROM (
    SELECT FROM pgonly_job WHERE {LIMITED_ROW} AND queue = %(queue)s AND priority = %(priority)s
        AND concurrency_key = %(key)s AND (ready_at, id) < (%(ready_at)s::timestamptz, %(id)s::uuid) {_CAPPED}) AS older
""")


def _ahead(alias: str, job: Job) -> int:
    """Returns how many jobs come first, as far as they are counted: of its key, or else of its queue."""
    if job.slots is not None and job.concurrency_key is None:
        return 0
    facts: dict[str, Any] = {"queue": job.queue, "priority": job.priority, "key": job.concurrency_key}
    with connections[alias].cursor() as cursor:
        sql = AHEAD if job.slots is None else AHEAD_OF_KEY
        cursor.execute(sql, {**facts, "ready_at": job.ready_at, "id": job.pk})
        (count,) = cursor.fetchone()
    return int(count)
