"""Which of the waiting limited jobs start now: pure functions, no connection.

Groups take turns, one job a turn, so that no key's flood starves another key. Within a group the oldest job goes first.
Where a concurrency key stands in several groups of one rank, its oldest job goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from pgonly_django.models.job import SUSPECT_FROM
from pgonly_django.queue.gates import UNLIMITED, Gate
from pgonly_django.queue.groups import Group, Kind
from pgonly_django.queue.turns import Rank


class Candidate(NamedTuple):
    """A waiting job, its row locked."""

    id: str
    slots: int
    key_limit: int
    crashes: int
    ready_at: float


class Allocated(NamedTuple):
    job: Candidate
    group: Group


@dataclass
class Room:
    """What there is to give away; allocate() uses it up."""

    slots: int
    gates: Mapping[str, Gate]
    key_running: dict[str, int]
    take_suspect: bool
    jobs: float = UNLIMITED
    started: dict[str, int] = field(default_factory=dict)  # by queue

    def in_queue(self, queue: str) -> int:
        gate = self.gates.get(queue)
        return UNLIMITED if gate is None else gate.starts - self.started.get(queue, 0)

    def admits(self, job: Candidate, group: Group) -> bool:
        is_kept_back = job.crashes >= SUSPECT_FROM and not self.take_suspect
        is_full = group.key is not None and self.key_running.get(group.key, 0) >= job.key_limit
        fits = not (is_kept_back or is_full) and job.slots <= self.slots and self.jobs > 0
        return fits and self.in_queue(group.queue) > 0

    def take(self, job: Candidate, group: Group) -> None:
        self.slots -= job.slots
        self.jobs -= 1
        self.started[group.queue] = self.started.get(group.queue, 0) + 1
        if group.key is not None:
            self.key_running[group.key] = self.key_running.get(group.key, 0) + 1
        if job.crashes >= SUSPECT_FROM:
            self.take_suspect = False


def allocate(
    groups: Sequence[Group],
    jobs: Mapping[Group, Sequence[Candidate]],
    room: Room,
    rank: Callable[[Group], Rank],
) -> list[Allocated]:
    """What starts now, in this order: rank by rank, in turns within a rank. `groups` are sorted by their rank."""
    allocated: list[Allocated] = []
    for _, equals in groupby(groups, rank):
        lines = _lines(equals, jobs)
        while lines and room.slots > 0:
            turn = [(line, _next(line, room)) for line in lines]
            allocated += [each for _, each in turn if each is not None]
            lines = [line for line, each in turn if each is not None]
    return allocated


def _lines(groups: Iterator[Group], jobs: Mapping[Group, Sequence[Candidate]]) -> list[Iterator[Allocated]]:
    """One line of jobs for each key, and for each group without one."""
    lines: dict[object, list[Allocated]] = {}
    for group in groups:
        line = lines.setdefault(group if group.key is None else group.key, [])
        line += [Allocated(job, group) for job in jobs.get(group, ())]
    return [iter(sorted(line, key=lambda each: each.job.ready_at)) for line in lines.values()]


def _next(line: Iterator[Allocated], room: Room) -> Allocated | None:
    """The next job of the line that starts. A key keeps its order: where its oldest job cannot start, none does."""
    for job, group in line:
        if room.admits(job, group):
            room.take(job, group)
            return Allocated(job, group)
        if group.kind is Kind.KEYED and room.in_queue(group.queue) > 0:
            return None
    return None
