"""A look at what a limited claim could take: two statements that lock nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgonly_django.database.connect import OwnConnection
from pgonly_django.database.statement import Params
from pgonly_django.queue import gates
from pgonly_django.queue.claim import Band
from pgonly_django.queue.gates import Gate
from pgonly_django.queue.groups import KEYS_AT_MOST, Group, Kind, groups
from pgonly_django.queue.turns import Turns
from pgonly_django.queue.unknown_tasks import NOTHING_LEFT

# After so long a job of several slots has its worker keep free slots for it.
OVERDUE_SECONDS = 60.0


@dataclass
class Look:
    """What one look has seen."""

    gates: dict[str, Gate]  # of all limited queues that this worker serves
    groups: list[Group] = field(default_factory=list)  # that may have room, in the order of service
    overdue_slots: int = 0  # so many are to be kept free for a job that has waited for OVERDUE_SECONDS
    too_heavy: list[Group] = field(
        default_factory=list
    )  # whose oldest job needs more slots than there are threads
    is_cut: bool = False  # there are more keys, at which the next look begins
    has_full: bool = False  # something waits for the end of a running job
    is_for_others: bool = False  # a worker with more free slots, or without a suspect, may take more

    @property
    def opens_in_seconds(self) -> float | None:
        """When time alone lets another job through."""
        opening = [gate.opens_in_seconds for gate in self.gates.values() if gate.has_waiting]
        return min((seconds for seconds in opening if seconds is not None), default=None)


def look(
    connection: OwnConnection,
    turns: Turns,
    threads: int,
    *,
    free_slots: int,
    keys_at_most: int = KEYS_AT_MOST,
    take_suspect: bool,
    leaving: Params = NOTHING_LEFT,
) -> Look:
    """`free_slots`: of the worker's `threads`. `leaving`: parameters of NOT_LEFT_TO_OTHERS. Raises psycopg.Error."""
    limited = gates.by_queue(gates.ask(connection, turns.queues))
    passable = [gate.queue for gate in limited.values() if gate.has_waiting and gate.starts > 0]
    found = groups(
        connection, turns.queues, (passable, [queue for queue in limited if queue not in passable]),
        turns.cursors, keys_at_most=keys_at_most, take_suspect=take_suspect, leaving=leaving,
    )  # fmt: skip
    with_room = [group for group in found if group.has_room]
    now = [group for group in with_room if group.fits(free_slots or threads, take_suspect=take_suspect)]
    is_full = any(gate.has_waiting and gate.is_full for gate in limited.values())
    seen = Look(
        limited,
        turns.in_order(
            group
            for group in with_room
            if group.fits(threads, take_suspect=take_suspect) or group.kind is Kind.KEYLESS
        ),
        too_heavy=[group for group in with_room if group.slots > threads],
        is_cut=_cut(found, now, turns, keys_at_most),
        has_full=is_full or len(with_room) < len(found),
        is_for_others=not take_suspect or bool(leaving["unknown"]) or len(now) < len(with_room),
    )
    _put_overdue_first(seen, threads, take_suspect=take_suspect)
    return seen


def _cut(found: list[Group], now: list[Group], turns: Turns, keys_at_most: int) -> bool:
    """Where there may be more keys of a band, and no job of those that were seen may start `now`, the next look begins
    behind them. Whether that is so, and keys are left at which none of the last looks has looked."""
    bands: dict[Band, list[Group]] = {}
    for group in found:
        if group.kind is Kind.KEYED:
            bands.setdefault(group.band, []).append(group)
    open_bands = {group.band for group in now if group.kind is Kind.KEYED}
    are_cut = []
    for band, keys in bands.items():
        if len(keys) >= keys_at_most and band not in open_bands:
            are_cut.append(not turns.note_vain(keys))
        else:
            turns.begin_round(band)
    return any(are_cut)


def _put_overdue_first(seen: Look, threads: int, *, take_suspect: bool) -> None:
    heavy = [
        group for group in seen.groups if group.slots > 1 and group.fits(threads, take_suspect=take_suspect)
    ]
    longest = max(heavy, key=lambda group: group.waited_seconds, default=None)
    if longest is not None and longest.waited_seconds >= OVERDUE_SECONDS:
        seen.groups.remove(longest)
        seen.groups.insert(0, longest)
        seen.overdue_slots = longest.slots
