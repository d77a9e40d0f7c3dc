"""Claims limited jobs: those of queues with a limit, those with a concurrency key, those that take several slots.

1. A *look* (look.py), without any lock, finds the groups that may have room. Mostly there are none, and that was all.
2. The claim is a short transaction. It locks the gates of some groups (gates.py).
3. In a new snapshot it counts what runs inside these gates, and locks the oldest jobs of these groups.
4. allocate() chooses (turns.py), the rows are updated, tokens are spent; COMMIT. No job is claimed and put back.

What the jobs need to run is read after the COMMIT. Until then only small answers travel, so that the server never
waits for a frozen process to read them: it waits for the next command, and ends the transaction after FROZEN.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from typing import Any
from uuid import UUID

import psycopg
from django.db.models import F, FloatField, Func, Value

from pgonly_django.database.connect import OwnConnection
from pgonly_django.database.statement import Params
from pgonly_django.models.job_rows import IS_LIMITED, IS_READY, IS_SUSPECT
from pgonly_django.queue.candidates import claimable, of, sql_of, where
from pgonly_django.queue.claim import (
    BAND_LIMIT,
    CLAIMED_COLUMNS,
    NOT_LEFT_TO_OTHERS,
    UPDATE,
    ClaimedJob,
    UnknownTasks,
)
from pgonly_django.queue.limited import gates
from pgonly_django.queue.limited.gates import UNLIMITED, Gate, key_gate, queue_gate
from pgonly_django.queue.limited.look import Look, look
from pgonly_django.queue.limited.turns import (
    Allocated,
    Allowance,
    Candidate,
    GroupKind,
    LimitedGroup,
    Turns,
    allocate,
)
from pgonly_django.tables import qualified

FROZEN = "2s"  # a claim that stands still for this long is rolled back
# This many jobs without a key, which need more slots than are free, do not hide a smaller one after them.
PASSED_OVER = 10

_KEPT = f"""ARRAY (SELECT kept.id FROM {gates.KEPT_JOBS.format(key="wanted.key", states="'ready'")})"""
_ROWS = {
    GroupKind.SUSPECT: claimable(IS_SUSPECT).order_by("ready_at"),
    GroupKind.PLAIN: claimable(IS_READY),
    GroupKind.KEYLESS: claimable(IS_LIMITED, concurrency_key=None),
    GroupKind.KEYED: claimable(IS_LIMITED, concurrency_key=of("wanted.key")),
    # By the primary key: a key may have many jobs in the index of those that are ready.
    GroupKind.KEPT: claimable(where(f"state || '' = 'ready' AND id = ANY ({_KEPT})"), slots__isnull=False),
}
# Index: pgonly_job_ready, pgonly_job_suspect or pgonly_job_limited, one range for each group.
CANDIDATES = qualified("""
SELECT wanted.number, job.* FROM unnest(%(numbers)s::int[], %(queues)s::text[], %(priorities)s::int2[],
        %(keys)s::text[], %(job_limits)s::int[]) AS wanted(number, queue, priority, key, job_limit)
CROSS JOIN LATERAL (
    SELECT id::text, coalesce(slots, 1)::int, coalesce(concurrency_limit, 1)::int, crashes::int,
        ready_epoch
    FROM ({oldest}) AS oldest LIMIT wanted.job_limit
) AS job
""")
_IN_BAND = {"queue": of("wanted.queue"), "priority": of("wanted.priority")}
_FACTS = "id", "slots", "concurrency_limit", "crashes"
# Not ready_at itself: models/readable.py reads it through functions, and by these no index has an order.
_EPOCH = Func(Value("epoch"), F("ready_at"), function="date_part", output_field=FloatField())
CANDIDATES_OF = {
    kind: CANDIDATES.format(
        oldest=sql_of(
            rows.filter(where(NOT_LEFT_TO_OTHERS), **_IN_BAND).values(*_FACTS, ready_epoch=_EPOCH)[
                :BAND_LIMIT
            ]
        )
    )
    for kind, rows in _ROWS.items()
}
# Index: the primary key. The rows are locked.
CLAIM = qualified(f"{UPDATE} (SELECT unnest(%(ids)s::uuid[])))")
# Index: the primary key (for "state || ''" see queue/finish.py).
CLAIMED = qualified(f"""
SELECT {CLAIMED_COLUMNS} FROM pgonly_job AS job
WHERE job.id = ANY (%(ids)s::uuid[]) AND job.worker_id = %(worker)s AND job.state || '' = 'running'
""")


@dataclass
class Claimed:
    """The result of one claim."""

    jobs: list[ClaimedJob] = field(default_factory=list)
    slots: dict[str, int] = field(default_factory=dict)  # of each, by its id
    was_contended: bool = False  # another claim was at a gate


@dataclass
class LimitedClaimer:
    """Claims limited jobs for one worker process."""

    worker_id: UUID
    lease_for: timedelta
    threads: int
    turns: Turns
    unknown: UnknownTasks = field(default_factory=UnknownTasks)

    def look(self, connection: OwnConnection, free_slots: int | None = None, *, take_suspect: bool) -> Look:
        """Looks with this number of free slots; None: all are. Raises psycopg.Error."""
        free = self.threads if free_slots is None else free_slots
        return look(connection, self.turns, self.threads, free, self._leaving(), take_suspect=take_suspect)

    def claim(
        self,
        connection: OwnConnection,
        seen: Look,
        free_slots: int,
        *,
        jobs_at_most: float = UNLIMITED,
        take_suspect: bool,
    ) -> Claimed:
        """Claims from the groups that a look has seen. Raises psycopg.Error."""
        chosen = _chosen(seen.groups, free_slots, take_suspect=take_suspect)
        if not chosen or seen.overdue_slots > free_slots:
            return Claimed()
        with connection.pipelined_transaction(idle_for=FROZEN) as pipeline:
            wanted = set().union(*(_gates_of(group, seen.gates) for group in chosen))
            locks = connection.execute(gates.LOCK, {"gates": sorted(wanted)}, prepare=True)
            pipeline.sync()
            locked = {name for (name,) in locks}
            groups = [group for group in chosen if _gates_of(group, seen.gates) <= locked]
            now = gates.ask(connection, {group.queue for group in groups})
            running = gates.ask_keys(connection, {group.key for group in groups if group.key is not None})
            asked = [
                self._candidates(connection, kind, groups, free_slots) for kind in {g.kind for g in groups}
            ]
            pipeline.sync()
            allowance = Allowance(
                free_slots, gates.by_queue(now), dict(running.fetchall()), take_suspect, jobs_at_most
            )
            jobs = _by_group(chain(*asked), groups, allowance.gates, locked)
            allocated = allocate(groups, jobs, allowance, self.turns.rank)
            rows = self._take(connection, allocated, allowance)
        self.turns.note_served([group for _, group in allocated])
        found = {row[0]: ClaimedJob._make(row) for row in rows}
        slots = {job.id: job.slots for job, _ in allocated if job.id in found}
        return Claimed([found[job_id] for job_id in slots], slots, was_contended=len(groups) < len(chosen))

    def _leaving(self) -> Params:
        return {"worker": self.worker_id, "lease_for": self.lease_for, "unknown": self.unknown.names()}

    def _candidates(
        self, connection: OwnConnection, kind: GroupKind, groups: Sequence[LimitedGroup], free_slots: int
    ) -> psycopg.Cursor[Any]:
        of_kind = [(number, group) for number, group in enumerate(groups) if group.kind is kind]
        parameters = {
            **self._leaving(),
            "numbers": [number for number, _ in of_kind],
            "queues": [group.queue for _, group in of_kind],
            "priorities": [group.priority for _, group in of_kind],
            "keys": [group.key for _, group in of_kind],
            "job_limits": [_most(group, free_slots) for _, group in of_kind],
        }
        return connection.execute(CANDIDATES_OF[kind], parameters, prepare=True)

    def _take(
        self, connection: OwnConnection, allocated: Sequence[Allocated], allowance: Allowance
    ) -> Iterable[Any]:
        """Writes the claim and commits it; all of it goes out with the end of the pipeline."""
        ids = [job.id for job, _ in allocated]
        parameters = {"ids": ids, "worker": self.worker_id, "lease_for": self.lease_for}
        if allocated:
            connection.execute(CLAIM, parameters, prepare=True)
            gates.spend(connection, allowance.gates, allowance.started)
        connection.execute("COMMIT", prepare=False)
        if not allocated:
            return ()
        rows = connection.cursor(binary=True)
        return rows.execute(CLAIMED, parameters, prepare=True)


def _chosen(groups: Sequence[LimitedGroup], free_slots: int, *, take_suspect: bool) -> list[LimitedGroup]:
    """Returns as many groups as there are free slots. A group whose oldest job cannot start now keeps no other out: it
    is left out, or it comes beside the others if a smaller job may stand after that one."""
    chosen, left = [], free_slots
    for group in groups:
        fits = group.fits(free_slots, take_suspect=take_suspect)
        if left > 0 and (fits or group.kind is GroupKind.KEYLESS):
            chosen.append(group)
            left -= fits
    return chosen


def _gates_of(group: LimitedGroup, limited: Mapping[str, Gate]) -> set[str]:
    """Returns a group's gates. Jobs without a key always have their queue's: no two claims see the same rows then."""
    names = {queue_gate(group.queue)} if group.key is None or group.queue in limited else set()
    return names if group.key is None else names | {key_gate(group.key)}


def _by_group(
    rows: Iterable[Any], groups: Sequence[LimitedGroup], limited: Mapping[str, Gate], locked: Collection[str]
) -> dict[LimitedGroup, list[Candidate]]:
    """Returns the jobs by group, without those of a queue that has got a limit since the look: its gate is not ours."""
    jobs: dict[LimitedGroup, list[Candidate]] = {}
    for number, *facts in rows:
        group = groups[number]
        if group.queue not in limited or queue_gate(group.queue) in locked:
            jobs.setdefault(group, []).append(Candidate(*facts))
    return jobs


def _most(group: LimitedGroup, free_slots: int) -> int:
    """Returns how many jobs of the group may start at most."""
    of_kind = {
        GroupKind.SUSPECT: 1,
        GroupKind.PLAIN: free_slots,
        GroupKind.KEYLESS: free_slots + PASSED_OVER,
        GroupKind.KEYED: min(free_slots, group.key_limit),
        GroupKind.KEPT: min(free_slots, group.key_limit),
    }
    return of_kind[group.kind]
