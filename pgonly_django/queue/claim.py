"""Claims ready jobs for one worker process: one statement locks candidates (candidates.py), and updates them.

A *band* is one queue at one priority: one range of the ready index. From each band a claim takes as many jobs as the
worker has free slots; from queues whose jobs are known to be short, as many as it may prefetch.

There are two statements. The *head* claim finds the bands by a loose scan of the ready index and takes the oldest jobs
of each. The *floor* claim begins each known band at its floor: the ready_at of the last job claimed from it. While an
old snapshot is open, vacuum cannot remove the entries of claimed jobs from the head of the index, and to walk over them
costs more with every job (claims of 50 rows: 11,650 jobs/s falling to 1,860 after 80,000 jobs; flat with floors). A
floor hides a job that commits late, and one that was stopped and has kept its place, so from time to time the worker
claims from the head.

What it means when a claim returns fewer jobs than it may take:

* a floor claim: nothing certain. There may be jobs below the floors, bands that this worker has not met, and suspects,
  which only a head claim takes. The next claim comes from the head, at `head_due_at`.
* a head claim: no other ready job is there for this worker, except those whose rows were locked at that moment,
  suspects while it may not take one, and jobs that it leaves to others (UnknownTasks; `left_early`). A NOTIFY tells of
  new jobs, so the worker waits; because of the locked rows it looks again after growing pauses.
* a claim without a free slot: that only of the queues it may prefetch from.

Neither takes jobs of a queue that is paused or limited, nor jobs with a concurrency key or several slots: for those see
queue/limited/claim.py.

`Claim.from_head` tells the first two apart. worker/claim_plan.py decides when the next claim is due.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models.expressions import RawSQL

from pgonly_django.database.statement import Params, Statement
from pgonly_django.models.job_rows import IS_READY, IS_SUSPECT, SUSPECT_FROM
from pgonly_django.models.queue import LIMITED_QUEUES
from pgonly_django.models.worker import SILENT_AFTER
from pgonly_django.queue.candidates import READY_ROW, claimable, of, sql_of, where
from pgonly_django.queue.carried import JSON_CARRIED
from pgonly_django.queue.enqueue import EPOCH
from pgonly_django.tables import qualified

# After a head claim that took d seconds the next comes no sooner than HEAD_DUTY * d later.
HEAD_DUTY = 10
# No worker holds more jobs: its threads, and what it prefetches. Without this literal the planner, which cannot know
# band.job_limit, expects a tenth of all ready jobs, and from a cost of 100,000 on compiles the claim (200,000 jobs: 32
# ms each time).
BAND_LIMIT = 1000
# A band without a job for this long is forgotten, until a head claim meets it again.
BAND_MEMORY_SECONDS = 60.0
UNKNOWN_FOR = timedelta(hours=1)  # a rolling deploy: then a job fails that no worker knows
LEFT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in a claimed row for JSON that this Python cannot load."""

    reason: str


class ClaimedJob(NamedTuple):
    """The facts of a claimed row that its run needs. Where JSON stands there may be an Unreadable instead.

    A `_timestamp` is a number of seconds since 1970: to make a datetime of each takes a tenth of the time of a
    short job.
    """

    id: str
    lease_epoch: int
    task: str
    args: list[Any]
    kwargs: dict[str, Any] | None  # None: empty
    queue: str
    priority: int
    backend: str
    attempt: int
    max_attempts: int
    crashes: int
    options: dict[str, Any] | None
    max_runtime: timedelta | None
    run_at: datetime | None
    ready_timestamp: float
    ready_again_timestamp: float | None
    enqueued_timestamp: float
    started_timestamp: float
    attempted_timestamp: float
    errors: list[dict[str, Any]] | None  # None: empty
    metadata: dict[str, Any] | None  # None: empty
    then_job: dict[str, Any] | None = None  # see tasks/bound.py
    batch_id: str | None = None

    @property
    def enqueued_at(self) -> datetime:
        return time_of(self.enqueued_timestamp)

    @property
    def started_at(self) -> datetime:
        return time_of(self.started_timestamp)

    @property
    def attempted_at(self) -> datetime:
        return time_of(self.attempted_timestamp)

    @property
    def waiting_since(self) -> float:
        """The time at which it last became ready."""
        return max(self.ready_timestamp, self.ready_again_timestamp or self.ready_timestamp)

    @property
    def waited_seconds(self) -> float:
        """The seconds from then until the claim."""
        return self.attempted_timestamp - self.waiting_since


def time_of(timestamp: float) -> datetime:
    """Returns the time to the microsecond, as PostgreSQL keeps it."""
    return EPOCH + timedelta(microseconds=round(timestamp * 1_000_000))


JSON_COLUMNS = ("args", "kwargs", "options", "errors", *JSON_CARRIED)
# The id as text, as it is used; NULL for what is empty in most rows, which saves parsing it.
SHORTER = {
    "id": "job.id::text", "batch_id": "job.batch_id::text",
    "kwargs": "nullif(job.kwargs, '{}')", "errors": "nullif(job.errors, '[]')",
}  # fmt: skip
TIMESTAMPS = {
    name: f"date_part('epoch', job.{name.removesuffix('_timestamp')}_at)"
    for name in ClaimedJob._fields
    if name.endswith("_timestamp")
}
CLAIMED_COLUMNS = ", ".join((SHORTER | TIMESTAMPS).get(name, f"job.{name}") for name in ClaimedJob._fields)

# The bands of all queues, or of given `{queues}`, by a loose scan of the index of `{row}`: each step is one probe, for
# the next lower priority of the queue, else for the next queue.
BANDS_OF_ALL = qualified("""
    (SELECT queue, priority FROM pgonly_job WHERE {row} ORDER BY queue, priority DESC LIMIT 1)
    UNION ALL
    SELECT next.queue, next.priority FROM {bands} AS bands CROSS JOIN LATERAL (
        (SELECT queue, priority FROM pgonly_job
         WHERE {row} AND queue = bands.queue AND priority < bands.priority
         ORDER BY priority DESC LIMIT 1)
        UNION ALL
        (SELECT queue, priority FROM pgonly_job
         WHERE {row} AND queue > bands.queue ORDER BY queue, priority DESC LIMIT 1)
        LIMIT 1
    ) AS next""")
BANDS_OF_GIVEN = qualified("""
    SELECT first.queue, first.priority FROM unnest({queues}) AS given(queue) CROSS JOIN LATERAL (
        SELECT queue, priority FROM pgonly_job WHERE {row} AND queue = given.queue
        ORDER BY priority DESC LIMIT 1
    ) AS first
    UNION ALL
    SELECT next.queue, next.priority FROM {bands} AS bands CROSS JOIN LATERAL (
        SELECT queue, priority FROM pgonly_job
        WHERE {row} AND queue = bands.queue AND priority < bands.priority
        ORDER BY priority DESC LIMIT 1
    ) AS next""")

# On a row of pgonly_job.
NOT_LEFT_EARLY = "id <> ALL (%(left_early)s::uuid[])"
# While no other worker lives, this one claims jobs of unknown tasks, and decides how they end. Index: pgonly_worker is
# small.
NOT_LEFT_TO_OTHERS = qualified(f"""(task <> ALL (%(unknown)s::text[]) OR NOT EXISTS (
    SELECT FROM pgonly_worker AS other WHERE other.id <> %(worker)s AND other.stopped_at IS NULL
        AND other.heartbeat_at > clock_timestamp() - %(lease_for)s::interval * {SILENT_AFTER}))""")

UPDATE = qualified("""
UPDATE pgonly_job AS job SET state = 'running', lease_epoch = lease_epoch + 1, worker_id = %(worker)s,
    lease_expires_at = clock_timestamp() + %(lease_for)s::interval, attempt = attempt + 1,
    attempted_at = clock_timestamp(), started_at = coalesce(started_at, clock_timestamp())
WHERE job.id = ANY (ARRAY
""")
# Index: pgonly_job_suspect, then pgonly_job_ready by band, then the primary key. pgonly_queue is small.
HEAD = qualified(f"""
WITH RECURSIVE bands(queue, priority) AS ({{bands}}),
band AS (
    SELECT bands.queue, bands.priority, '-infinity'::timestamptz AS floor,
        coalesce(prefetch.job_limit, %(free_slots)s::int) AS job_limit
    FROM bands LEFT JOIN unnest(%(prefetch_queues)s::text[], %(prefetch_limits)s::int[]) AS prefetch(queue, job_limit)
        ON prefetch.queue = bands.queue
    WHERE bands.queue <> ALL {LIMITED_QUEUES}
    ORDER BY {{order}}
),
suspect AS MATERIALIZED ({{suspect}}),
picked AS MATERIALIZED (
    SELECT candidate.id FROM band CROSS JOIN LATERAL ({{oldest}}) AS candidate
    LIMIT %(limit)s::int - (SELECT count(*) FROM suspect)
)
{UPDATE} (SELECT id FROM suspect UNION ALL SELECT id FROM picked)) RETURNING {{columns}}
""")
# What differs between workers of all queues and of given queues. `order` is the order of service: as the queues were
# given, else by priority, and in turns among equals.
ALL_QUEUES = {
    "bands": BANDS_OF_ALL.format(row=READY_ROW, bands="bands"),
    "order": "bands.priority DESC, bands.queue <= %(last_queue)s, bands.queue",
}
GIVEN_QUEUES = {
    "bands": BANDS_OF_GIVEN.format(row=READY_ROW, bands="bands", queues="%(queues)s::text[]"),
    "order": "array_position(%(queues)s::text[], bands.queue::text), bands.priority DESC",
}
# Index: pgonly_job_ready, one range per band, then the primary key. pgonly_queue is small.
FLOOR = f"""
WITH picked AS MATERIALIZED (
    SELECT candidate.id
    FROM unnest(%(queues)s::text[], %(priorities)s::int2[], %(floors)s::timestamptz[], %(job_limits)s::int[])
        AS band(queue, priority, floor, job_limit)
    CROSS JOIN LATERAL ({{oldest}}) AS candidate
    WHERE band.queue <> ALL {LIMITED_QUEUES}
    LIMIT %(limit)s::int
)
{UPDATE} (SELECT id FROM picked)) RETURNING {{columns}}
"""

Band = tuple[str, int]  # queue and priority
_PLACE = attrgetter("ready_timestamp", "id")
LOWEST = float("-inf")


@lru_cache
def claim_statement(template: str, given_queues: bool, leaves_some: bool) -> Statement:
    """Returns HEAD or FLOOR. `leaves_some`: it passes over jobs in `left_early` and jobs of unknown tasks."""
    parts = GIVEN_QUEUES if given_queues else ALL_QUEUES
    known = [where(NOT_LEFT_EARLY), where(NOT_LEFT_TO_OTHERS)] if leaves_some else []
    served = [where("queue = ANY (%(queues)s::text[])")] if given_queues else []
    suspect, oldest = _suspect(*served, *known), _oldest(*known)
    return Statement(template.format(suspect=suspect, oldest=oldest, columns=CLAIMED_COLUMNS, **parts))


def _suspect(*conditions: RawSQL) -> str:
    may_take = where(f"queue <> ALL {LIMITED_QUEUES} AND %(take_suspect)s::bool")
    return sql_of(claimable(IS_SUSPECT, may_take, *conditions).order_by("ready_at").values("id")[:1])


def _oldest(*conditions: RawSQL) -> str:
    """Returns the SELECT of the oldest jobs of `band`. PostgreSQL locks a row when the outer LIMIT asks for it, never
    all BAND_LIMIT."""
    in_band = {"queue": of("band.queue"), "priority": of("band.priority"), "ready_at__gte": of("band.floor")}
    oldest = claimable(IS_READY, *conditions, **in_band).values("id")[:BAND_LIMIT]
    return f"SELECT id FROM ({sql_of(oldest)}) AS oldest LIMIT band.job_limit"


class UnknownTasks:
    """The tasks that a worker does not know. During a rolling deploy the workers of the old version are idle, and would
    claim the jobs of a new task again and again while those of the new version are busy. So each worker leaves such
    jobs to others for a minute after each one that was postponed, in the first hour. From then on all are claimed, so
    that each gets its end where no worker knows them."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._until: dict[str, float] = {}

    def note(self, task: str) -> None:
        """Notes that the worker has claimed a job of this task, which it does not know."""
        now = time.monotonic()
        if now < self._since.setdefault(task, now) + UNKNOWN_FOR.total_seconds():
            self._until[task] = now + LEFT_SECONDS

    def names(self) -> list[str]:
        now = time.monotonic()
        return [task for task, until in self._until.items() if now < until]


@dataclass(slots=True)
class Claim:
    """The number of jobs to claim."""

    free_slots: int  # this many of each queue
    prefetch_limits: dict[str, int]  # and this many instead of queues whose jobs are short
    take_suspect: bool  # one at most
    from_head: bool = True  # not from the floors: see Claimer.is_head_due

    @property
    def limit(self) -> int:
        """The limit over all queues together."""
        return max([self.free_slots, *self.prefetch_limits.values()])

    def limit_of(self, queue: str) -> int:
        return self.prefetch_limits.get(queue, self.free_slots)


@dataclass
class Claimer:
    """Builds the claims of one worker process and remembers its bands."""

    worker_id: UUID
    lease_for: timedelta
    queues: Sequence[str] = ()
    floors: dict[Band, float] = field(default_factory=dict)
    head_due_at: float = 0.0
    unknown: UnknownTasks = field(default_factory=UnknownTasks)
    left_early: AbstractSet[str] = frozenset()  # ids of jobs that this process has too little time for
    _band_seen_at: dict[Band, float] = field(default_factory=dict)
    _last_queue: str = ""
    _head_wanted_at: float = float("-inf")

    @property
    def is_head_due(self) -> bool:
        """Whether the next claim has to be a head claim."""
        return time.monotonic() >= self.head_due_at or not self.floors

    def statement(self, claim: Claim) -> tuple[Statement, Params]:
        unknown, left_early = self.unknown.names(), list(self.left_early)
        leaves_some = bool(unknown or left_early)
        common = {
            "worker": self.worker_id, "lease_for": self.lease_for, "limit": claim.limit,
            "unknown": unknown, "left_early": left_early,
        }  # fmt: skip
        if claim.from_head:
            return claim_statement(HEAD, bool(self.queues), leaves_some), {
                **common,
                "free_slots": claim.free_slots,
                "prefetch_queues": list(claim.prefetch_limits),
                "prefetch_limits": list(claim.prefetch_limits.values()),
                "take_suspect": claim.take_suspect,
                "last_queue": self._last_queue,
                "queues": list(self.queues),
            }
        bands = self._in_order(self.floors)
        return claim_statement(FLOOR, False, leaves_some), {
            **common,
            "queues": [queue for queue, _ in bands],
            "priorities": [priority for _, priority in bands],
            "floors": [time_of(self.floors[band]) for band in bands],
            "job_limits": [claim.limit_of(queue) for queue, _ in bands],
        }

    def absorb(self, claim: Claim, jobs: list[ClaimedJob], took_seconds: float) -> None:
        """Learns from the answer of a claim: raises the floors to what was claimed, and after a head claim sets
        the time of the next one."""
        now = time.monotonic()
        if claim.from_head:
            if now - took_seconds >= self._head_wanted_at:
                self.head_due_at = now + HEAD_DUTY * took_seconds
            for band, seen_at in tuple(self._band_seen_at.items()):
                if now - seen_at > BAND_MEMORY_SECONDS:
                    del self._band_seen_at[band]
                    self.floors.pop(band, None)
        for job in jobs:
            band = (job.queue, job.priority)
            if job.crashes < SUSPECT_FROM and job.ready_timestamp > self.floors.get(band, LOWEST):
                self.floors[band] = job.ready_timestamp
            self._band_seen_at[band] = now
        if jobs:
            self._last_queue = jobs[-1].queue

    def in_order(self, jobs: list[ClaimedJob]) -> list[ClaimedJob]:
        """Returns the claimed jobs in the order of service: UPDATE ... RETURNING has no order."""
        jobs.sort(key=_PLACE)
        bands = {(job.queue, job.priority) for job in jobs}
        if len(bands) > 1:
            rank = {band: number for number, band in enumerate(self._in_order(bands))}
            jobs.sort(key=lambda job: rank[job.queue, job.priority])
        return jobs

    def look_from_head_next(self) -> None:
        self.head_due_at, self._head_wanted_at = 0.0, time.monotonic()

    def _in_order(self, bands: Collection[Band]) -> list[Band]:
        """Returns the bands in the order of service, see GIVEN_QUEUES and ALL_QUEUES."""
        if self.queues:
            return sorted(bands, key=lambda band: (self.queues.index(band[0]), -band[1]))
        return sorted(bands, key=lambda band: (-band[1], band[0] <= self._last_queue, band[0]))
