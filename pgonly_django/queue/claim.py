"""One statement takes ready jobs for one worker process: candidates locked with SKIP LOCKED, then updated.

Two shapes of it. The *head* claim finds by itself which (queue, priority) bands have ready rows, by a loose scan
of the ready index, and takes the oldest of each. The *floor* claim starts each known band at the last claimed
ready_at: under an old snapshot vacuum cannot remove the claimed entries at the head of the index, and walking
them costs more with every job (50-row claims: 11,650 jobs/s falling to 1,860 after 80,000 jobs; flat with
floors). A floor may hide a row that committed late, so the head is looked at again on a duty cycle.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connections, transaction
from django.db.models import BooleanField
from django.db.models.expressions import RawSQL

from pgonly_django.database.libpq import Params, Statement
from pgonly_django.models import Job
from pgonly_django.models.job import READY_ROW, SUSPECT_FROM, SUSPECT_ROW

# After a head claim that took d seconds the next comes no sooner than DUTY * d later.
DUTY = 10
# No worker has room for more: its threads and what it claims ahead of them. The planner, who cannot know b.room, would
# expect a tenth of all ready jobs, and from a cost of 100,000 on compile the claim (200,000 jobs: 32 ms each time).
ROOM_LIMIT = 1000
# A band that gave nothing for this long is forgotten until a head claim meets it again.
BAND_MEMORY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in a claimed row for JSON that this Python cannot load."""

    reason: str


class ClaimedJob(NamedTuple):
    """The facts of a claimed row that its run needs. Where JSON stands there may be an Unreadable instead."""

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
    ready_at: datetime
    enqueued_at: datetime
    started_at: datetime
    attempted_at: datetime
    errors: list[dict[str, Any]] | None  # None: empty


JSON_COLUMNS = ("args", "kwargs", "options", "errors")
# Text for what is used as text; NULL for what is empty in most rows and would be parsed in vain, and for a time that
# Python cannot hold.
SHORTER = {
    "id": "job.id::text",
    "kwargs": "nullif(job.kwargs, '{}')",
    "errors": "nullif(job.errors, '[]')",
    "run_at": "CASE WHEN job.run_at BETWEEN '1000-01-01' AND '9000-01-01' THEN job.run_at END",
}
COLUMNS = ", ".join(SHORTER.get(name, f"job.{name}") for name in ClaimedJob._fields)

# Index: pgonly_job_ready. Each step is one probe: the next lower priority of the queue, else the next queue.
BANDS_OF_ALL_QUEUES = f"""
    (SELECT queue, priority FROM pgonly_job WHERE {READY_ROW} ORDER BY queue, priority DESC LIMIT 1)
    UNION ALL
    SELECT next.queue, next.priority FROM bands CROSS JOIN LATERAL (
        (SELECT queue, priority FROM pgonly_job
         WHERE {READY_ROW} AND queue = bands.queue AND priority < bands.priority
         ORDER BY priority DESC LIMIT 1)
        UNION ALL
        (SELECT queue, priority FROM pgonly_job
         WHERE {READY_ROW} AND queue > bands.queue ORDER BY queue, priority DESC LIMIT 1)
        LIMIT 1
    ) AS next
"""
BANDS_OF_GIVEN_QUEUES = f"""
    SELECT first.queue, first.priority FROM unnest(%(queues)s::text[]) AS given(queue) CROSS JOIN LATERAL (
        SELECT queue, priority FROM pgonly_job WHERE {READY_ROW} AND queue = given.queue
        ORDER BY priority DESC LIMIT 1
    ) AS first
    UNION ALL
    SELECT next.queue, next.priority FROM bands CROSS JOIN LATERAL (
        SELECT queue, priority FROM pgonly_job
        WHERE {READY_ROW} AND queue = bands.queue AND priority < bands.priority
        ORDER BY priority DESC LIMIT 1
    ) AS next
"""
# Serving order: as the queues were given; else by priority, and among equals in turns.
ORDER_OF_GIVEN_QUEUES = "array_position(%(queues)s::text[], bands.queue::text), bands.priority DESC"
ORDER_OF_ALL_QUEUES = "bands.priority DESC, bands.queue <= %(last_queue)s, bands.queue"

# Index: pgonly_job_suspect, then pgonly_job_ready by band, then the primary key.
HEAD = """
WITH RECURSIVE bands(queue, priority) AS ({bands}),
b AS (
    SELECT bands.queue, bands.priority, '-infinity'::timestamptz AS floor,
        coalesce(short.room, %(free)s::int) AS room
    FROM bands LEFT JOIN unnest(%(short_queues)s::text[], %(short_rooms)s::int[]) AS short(queue, room)
        ON short.queue = bands.queue
    ORDER BY {order}
),
suspect AS MATERIALIZED (
    SELECT id FROM pgonly_job
    WHERE {suspect_row} AND %(take_suspect)s::bool AND {suspect_queues}
    ORDER BY ready_at LIMIT 1 FOR UPDATE SKIP LOCKED
),
picked AS MATERIALIZED (
    SELECT candidate.id FROM b CROSS JOIN LATERAL ({candidates}) AS candidate
    LIMIT %(limit)s::int - (SELECT count(*) FROM suspect)
)
{update} (SELECT id FROM suspect UNION ALL SELECT id FROM picked)) RETURNING {columns}
"""
# Index: pgonly_job_ready, one range per band, then the primary key.
FLOOR = """
WITH picked AS MATERIALIZED (
    SELECT candidate.id
    FROM unnest(%(queues)s::text[], %(priorities)s::smallint[], %(floors)s::timestamptz[], %(rooms)s::int[])
        AS b(queue, priority, floor, room)
    CROSS JOIN LATERAL ({candidates}) AS candidate
    LIMIT %(limit)s::int
)
{update} (SELECT id FROM picked)) RETURNING {columns}
"""
UPDATE = """
UPDATE pgonly_job AS job SET state = 'running', lease_epoch = lease_epoch + 1, worker_id = %(worker)s,
    lease_expires_at = clock_timestamp() + %(lease_for)s::interval, attempt = attempt + 1,
    attempted_at = clock_timestamp(), started_at = coalesce(started_at, clock_timestamp())
WHERE job.id = ANY (ARRAY
"""

Band = tuple[str, int]


@lru_cache
def candidates_sql(alias: str) -> str:
    """The ORM's own `select_for_update(skip_locked=True)`, compiled to stand as LATERAL over a band `b`.

    Rows are locked as the outer LIMIT asks for them, never ROOM_LIMIT of them.
    """
    band = f"{READY_ROW} AND queue = b.queue AND priority = b.priority AND ready_at >= b.floor"
    queryset = (
        Job.objects.using(alias)
        .filter(RawSQL(band, [], output_field=BooleanField()))  # noqa: S611 - no text but ours
        .order_by("ready_at", "id")
        .values("id")
        .select_for_update(skip_locked=True)[:ROOM_LIMIT]
    )
    was_open = connections[alias].connection is not None
    with transaction.atomic(using=alias):  # the ORM compiles FOR UPDATE only inside a transaction
        sql, parameters = queryset.query.get_compiler(alias).as_sql()
    if not was_open:
        connections[alias].close()
    assert not parameters, parameters
    return f"SELECT id FROM ({sql}) AS oldest LIMIT b.room"


@dataclass
class Claimer:
    """Builds the claims of one worker process and remembers its bands."""

    alias: str
    worker_id: UUID
    lease_for: timedelta
    queues: Sequence[str] = ()
    floors: dict[Band, datetime] = field(default_factory=dict)
    head_due_at: float = 0.0
    _band_seen_at: dict[Band, float] = field(default_factory=dict)
    _last_queue: str = ""
    _at_head: bool = True

    def statement(
        self, free: int, rooms: Mapping[str, int], *, take_suspect: bool
    ) -> tuple[Statement, Params]:
        """The next claim: at most `free` jobs of each queue, or as many as `rooms` says where jobs are short."""
        self._at_head = time.monotonic() >= self.head_due_at or not self.floors
        limit = max([free, *rooms.values()])
        common = {"worker": self.worker_id, "lease_for": self.lease_for, "limit": limit}
        if self._at_head:
            return _head(self.alias, bool(self.queues)), {
                **common,
                "free": free,
                "short_queues": list(rooms),
                "short_rooms": list(rooms.values()),
                "take_suspect": take_suspect,
                "last_queue": self._last_queue,
                "queues": list(self.queues),
            }
        bands = self._bands_in_order()
        return _floor(self.alias), {
            **common,
            "queues": [queue for queue, _ in bands],
            "priorities": [priority for _, priority in bands],
            "floors": [self.floors[band] for band in bands],
            "rooms": [rooms.get(queue, free) for queue, _ in bands],
        }

    def absorb(self, jobs: list[ClaimedJob], took_seconds: float) -> None:
        """Learn from a claim's answer: floors rise to what was claimed, and a head claim sets the next one's time."""
        now = time.monotonic()
        if self._at_head:
            self.head_due_at = now + DUTY * took_seconds
            self._forget_idle_bands(now)
        for job in jobs:
            band = (job.queue, job.priority)
            if job.crashes < SUSPECT_FROM and job.ready_at > self.floors.get(
                band, datetime.min.replace(tzinfo=job.ready_at.tzinfo)
            ):
                self.floors[band] = job.ready_at
            self._band_seen_at[band] = now
        if jobs:
            self._last_queue = jobs[-1].queue

    @property
    def looked_from_head(self) -> bool:
        """Whether the last claim saw everything there is: only then does "nothing found" mean nothing there."""
        return self._at_head

    def look_from_head_next(self) -> None:
        self.head_due_at = 0.0

    def _bands_in_order(self) -> list[Band]:
        if self.queues:
            return sorted(self.floors, key=lambda band: (self.queues.index(band[0]), -band[1]))
        return sorted(self.floors, key=lambda band: (-band[1], band[0] <= self._last_queue, band[0]))

    def _forget_idle_bands(self, now: float) -> None:
        for band, seen_at in tuple(self._band_seen_at.items()):
            if now - seen_at > BAND_MEMORY_SECONDS:
                del self._band_seen_at[band]
                self.floors.pop(band, None)


@lru_cache
def _floor(alias: str) -> Statement:
    return Statement(FLOOR.format(candidates=candidates_sql(alias), update=UPDATE, columns=COLUMNS))


@lru_cache
def _head(alias: str, given_queues: bool) -> Statement:
    sql = HEAD.format(
        bands=BANDS_OF_GIVEN_QUEUES if given_queues else BANDS_OF_ALL_QUEUES,
        order=ORDER_OF_GIVEN_QUEUES if given_queues else ORDER_OF_ALL_QUEUES,
        suspect_row=SUSPECT_ROW,
        suspect_queues="queue = ANY (%(queues)s::text[])" if given_queues else "true",
        candidates=candidates_sql(alias),
        update=UPDATE,
        columns=COLUMNS,
    )
    return Statement(sql)
