"""The order of limited jobs, and which of them start, without a connection.

A *group* are the limited jobs of one kind, queue, priority and concurrency key. Within a group the oldest job goes
first, and the groups take turns, so that no key's flood starves another key.

As in the ordinary claims, given queues are served in their order and within a queue by priority, and all queues by
priority. Among equals queues take turns, in a queue its kinds of groups, and among the concurrency keys each key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby, zip_longest
from typing import NamedTuple

from pgonly_django.models.job_rows import SUSPECT_FROM
from pgonly_django.queue.claim import BAND_LIMIT, Band
from pgonly_django.queue.limited.gates import UNLIMITED, Gate

Rank = tuple[int, int]  # smaller goes first
BANDS_REMEMBERED = 1000
LAPS = 2


class GroupKind(StrEnum):
    SUSPECT = "suspect"  # of a limited queue
    PLAIN = "plain"  # of a limited queue
    KEYLESS = "keyless"  # several slots, no concurrency key
    KEYED = "keyed"
    KEPT = "kept"  # keyed; its first job has kept the key while it waited, and is counted already


class LimitedGroup(NamedTuple):
    """A group that a look has found, without any lock, and the oldest job of it."""

    kind: GroupKind
    queue: str
    priority: int
    key: str | None
    key_limit: int
    key_running: int
    slots: int
    waited_seconds: float
    task: str
    place: int  # in its band, counted from where the last look ended
    is_suspect: bool  # its oldest job

    @property
    def band(self) -> Band:
        return self.queue, self.priority

    @property
    def has_room(self) -> bool:
        return self.key is None or self.kind is GroupKind.KEPT or self.key_running < self.key_limit

    def fits(self, slots: int, *, take_suspect: bool) -> bool:
        """Returns whether its oldest job may start in a worker with this number of `slots`."""
        return self.slots <= slots and (take_suspect or not self.is_suspect)


@dataclass
class Turns:
    """The order in which groups take turns. One worker process remembers it from claim to claim."""

    queues: Sequence[str] = ()
    # The last key of each band that the worker has served, or looked at in vain.
    cursors: dict[Band, str] = field(default_factory=dict)
    _last_queue: str = ""
    _last_kind: dict[Band, GroupKind] = field(default_factory=dict)
    _laps: Counter[Band] = field(default_factory=Counter)  # without a key that a job could be taken of

    def rank(self, group: LimitedGroup) -> Rank:
        if self.queues:
            return self.queues.index(group.queue), -group.priority
        return -group.priority, 0

    def in_order(self, groups: Iterable[LimitedGroup]) -> list[LimitedGroup]:
        ranked = groupby(sorted(groups, key=self.rank), self.rank)
        return [group for _, equals in ranked for group in self._in_turns(list(equals))]

    def note_served(self, groups: Sequence[LimitedGroup]) -> None:
        """Notes that jobs of these groups start, in this order."""
        for group in groups:
            self._last_queue, self._last_kind[group.band] = group.queue, group.kind
        self._note_seen(groups)

    def note_vain(self, keys: Sequence[LimitedGroup]) -> bool:
        """Notes that no job of these keys, which are of one band, may start. Returns whether that holds for all keys of
        the band by now: the looks have come to the end of them twice, and begun again at the first one."""
        band = keys[0].band
        self._note_seen(keys)
        self._laps[band] += any(group.place > BAND_LIMIT for group in keys)
        is_over = self._laps[band] >= LAPS
        if is_over:
            self.begin_round(band)
        return is_over

    def begin_round(self, band: Band) -> None:
        self._laps.pop(band, None)

    def begin_rounds(self) -> None:
        """Called when any key may have room by now, also one that the looks have passed."""
        self._laps.clear()

    def _note_seen(self, groups: Iterable[LimitedGroup]) -> None:
        """Makes the next look begin after the last key of these groups."""
        if len(self.cursors) > BANDS_REMEMBERED:
            self.cursors.clear()
            self._last_kind.clear()
            self._laps.clear()
        for group in sorted(groups, key=lambda group: group.place):
            if group.key is not None:
                self.cursors[group.band] = group.key

    def _in_turns(self, groups: list[LimitedGroup]) -> list[LimitedGroup]:
        by_queue: dict[str, list[LimitedGroup]] = {}
        for group in groups:
            by_queue.setdefault(group.queue, []).append(group)
        queues = sorted(by_queue, key=lambda queue: (queue <= self._last_queue, queue))
        return _interleaved(self._kinds_in_turns(by_queue[queue]) for queue in queues)

    def _kinds_in_turns(self, groups: list[LimitedGroup]) -> list[LimitedGroup]:
        """Returns the groups of one band."""
        kinds, last = list(GroupKind), self._last_kind.get(groups[0].band)
        following = 0 if last is None else kinds.index(last) + 1
        turns = kinds[following:] + kinds[:following]
        of_kind = ([group for group in groups if group.kind is kind] for kind in turns)
        return _interleaved(sorted(some, key=lambda group: group.place) for some in of_kind)


def _interleaved(lists: Iterable[list[LimitedGroup]]) -> list[LimitedGroup]:
    """Returns the first of each list, then the second of each, and so on."""
    return [group for turn in zip_longest(*lists) for group in turn if group is not None]


class Candidate(NamedTuple):
    """A waiting job, its row locked."""

    id: str
    slots: int
    key_limit: int
    crashes: int
    ready_at: float


class Allocated(NamedTuple):
    job: Candidate
    group: LimitedGroup


@dataclass
class Allowance:
    """The room that allocate() gives away and uses up."""

    slots: int
    gates: Mapping[str, Gate]
    key_running: dict[str, int]
    take_suspect: bool
    jobs: float = UNLIMITED
    started: Counter[str] = field(default_factory=Counter)  # by queue

    def in_queue(self, queue: str) -> int:
        gate = self.gates.get(queue)
        return UNLIMITED if gate is None else gate.starts - self.started[queue]

    def admits(self, job: Candidate, group: LimitedGroup) -> bool:
        is_kept_back = job.crashes >= SUSPECT_FROM and not self.take_suspect
        has_key = group.key is None or group.kind is GroupKind.KEPT
        is_full = not has_key and self.key_running.get(group.key or "", 0) >= job.key_limit
        fits = not (is_kept_back or is_full) and job.slots <= self.slots and self.jobs > 0
        return fits and self.in_queue(group.queue) > 0

    def take(self, job: Candidate, group: LimitedGroup) -> None:
        self.slots -= job.slots
        self.jobs -= 1
        self.started[group.queue] += 1
        if group.key is not None and group.kind is not GroupKind.KEPT:
            self.key_running[group.key] = self.key_running.get(group.key, 0) + 1
        if job.crashes >= SUSPECT_FROM:
            self.take_suspect = False


def allocate(
    groups: Iterable[LimitedGroup],
    jobs: Mapping[LimitedGroup, Sequence[Candidate]],
    allowance: Allowance,
    rank: Callable[[LimitedGroup], Rank],
) -> list[Allocated]:
    """Returns the jobs that start now: rank by rank, in turns within a rank. `groups` are sorted by their rank."""
    allocated: list[Allocated] = []
    for _, equals in groupby(groups, rank):
        lines = _lines(equals, jobs)
        while lines and allowance.slots > 0:
            turn = [(line, _next(line, allowance)) for line in lines]
            allocated += [each for _, each in turn if each is not None]
            lines = [line for line, each in turn if each is not None]
    return allocated


def _lines(
    groups: Iterable[LimitedGroup], jobs: Mapping[LimitedGroup, Sequence[Candidate]]
) -> list[Iterator[Allocated]]:
    """Returns one line of jobs for each key, and for each group without one. Where a key stands in several groups of
    one rank, its oldest job goes first."""
    lines: dict[object, list[Allocated]] = {}
    for group in groups:
        line = lines.setdefault(group if group.key is None else group.key, [])
        line += [Allocated(job, group) for job in jobs.get(group, ())]
    return [iter(sorted(line, key=_place)) for line in lines.values()]


def _place(each: Allocated) -> tuple[bool, float]:
    return each.group.kind is not GroupKind.KEPT, each.job.ready_at


def _next(line: Iterator[Allocated], allowance: Allowance) -> Allocated | None:
    """Returns the next job that starts. A key keeps its order: where its oldest job cannot start, none does."""
    for each in line:
        if allowance.admits(*each):
            allowance.take(*each)
            return each
        if each.group.kind is GroupKind.KEYED and allowance.in_queue(each.group.queue) > 0:
            return None
    return None
