"""Whose turn it is among the groups of limited jobs. One worker process remembers it from claim to claim.

As in the ordinary claims, given queues are served in their order and within a queue by priority, and all queues by
priority. Among equals queues take turns, in a queue its kinds of groups, and among the concurrency keys each key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from pgonly_django.queue.claim import Band
from pgonly_django.queue.groups import Cursors, Group, Kind

Rank = tuple[int, int]  # smaller goes first
BANDS_REMEMBERED = 1000
LAPS = 2


@dataclass
class Turns:
    queues: Sequence[str] = ()
    cursors: Cursors = field(default_factory=Cursors)
    _last_queue: str = ""
    _last_kind: dict[Band, Kind] = field(default_factory=dict)
    _laps: Counter[Band] = field(default_factory=Counter)  # without a key that a job could be taken of

    def rank(self, group: Group) -> Rank:
        if self.queues:
            return self.queues.index(group.queue), -group.priority
        return -group.priority, 0

    def in_order(self, groups: Iterable[Group]) -> list[Group]:
        by_rank: dict[Rank, list[Group]] = {}
        for group in groups:
            by_rank.setdefault(self.rank(group), []).append(group)
        return [group for rank in sorted(by_rank) for group in self._in_turns(by_rank[rank])]

    def note_served(self, groups: Sequence[Group]) -> None:
        """Jobs of these start, in this order."""
        for group in groups:
            self._last_queue, self._last_kind[group.band] = group.queue, group.kind
        self.note_seen(groups)

    def note_seen(self, groups: Iterable[Group]) -> None:
        """The next look begins behind the last key of these."""
        if len(self.cursors) > BANDS_REMEMBERED:
            self.cursors.clear()
            self._last_kind.clear()
            self._laps.clear()
        for group in sorted(groups, key=lambda group: group.place):
            if group.key is not None:
                self.cursors[group.band] = group.key

    def note_vain(self, keys: Sequence[Group]) -> bool:
        """No job of these keys, which are of one band, may start. Whether that holds for all keys of the band by now:
        the looks have come to the end of them twice."""
        band = keys[0].band
        self.note_seen(keys)
        self._laps[band] += any(group.is_behind_the_end for group in keys)
        is_over = self._laps[band] >= LAPS
        if is_over:
            self.begin_round(band)
        return is_over

    def begin_round(self, band: Band) -> None:
        self._laps.pop(band, None)

    def _in_turns(self, groups: list[Group]) -> list[Group]:
        by_queue: dict[str, list[Group]] = {}
        for group in groups:
            by_queue.setdefault(group.queue, []).append(group)
        queues = sorted(by_queue, key=lambda queue: (queue <= self._last_queue, queue))
        return _interleaved(self._kinds_in_turns(by_queue[queue]) for queue in queues)

    def _kinds_in_turns(self, groups: list[Group]) -> list[Group]:
        """The groups of one band."""
        kinds, last = list(Kind), self._last_kind.get(groups[0].band)
        following = 0 if last is None else kinds.index(last) + 1
        turns = kinds[following:] + kinds[:following]
        of_kind = ([group for group in groups if group.kind is kind] for kind in turns)
        return _interleaved(sorted(some, key=lambda group: group.place) for some in of_kind)


def _interleaved(lists: Iterable[list[Group]]) -> list[Group]:
    """The first of each list, then the second of each, and so on."""
    return [group for turn in zip_longest(*lists) for group in turn if group is not None]
