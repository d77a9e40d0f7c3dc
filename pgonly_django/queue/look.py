"""A look at what a limited claim could take: two statements that lock nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgonly_django.database.connect import OwnConnection
from pgonly_django.queue import gates
from pgonly_django.queue.gates import Gate
from pgonly_django.queue.groups import KEYS_AT_MOST, Group, Kind, groups
from pgonly_django.queue.turns import Turns

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
    is_cut: bool = False  # there are more keys, for the next look
    has_full: bool = False  # something waits for the end of a running job

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
    keys_at_most: int = KEYS_AT_MOST,
    take_suspect: bool,
) -> Look:
    """Raises psycopg.Error."""
    limited = gates.by_queue(gates.ask(connection, turns.queues))
    passable = [gate.queue for gate in limited.values() if gate.has_waiting and gate.starts > 0]
    found = groups(
        connection, turns.queues, (passable, [queue for queue in limited if queue not in passable]),
        turns.cursors, keys_at_most=keys_at_most, take_suspect=take_suspect,
    )  # fmt: skip
    with_room = [group for group in found if group.has_room]
    is_full = any(gate.has_waiting and gate.is_full for gate in limited.values())
    seen = Look(
        limited,
        turns.in_order(group for group in with_room if group.slots <= threads or group.kind is Kind.KEYLESS),
        too_heavy=[group for group in with_room if group.slots > threads],
        is_cut=_cut(found, turns, keys_at_most),
        has_full=is_full or len(with_room) < len(found),
    )
    _put_overdue_first(seen, threads)
    return seen


def _cut(found: list[Group], turns: Turns, keys_at_most: int) -> bool:
    """Whether there may be more keys. Where none of those that were seen has room, the next look begins behind them."""
    bands: dict[object, list[Group]] = {}
    for group in found:
        if group.kind is Kind.KEYED:
            bands.setdefault(group.band, []).append(group)
    cut = [keys for keys in bands.values() if len(keys) >= keys_at_most]
    for keys in cut:
        if not any(group.has_room for group in keys):
            turns.note_seen(keys)
    return bool(cut)


def _put_overdue_first(seen: Look, threads: int) -> None:
    heavy = [group for group in seen.groups if 1 < group.slots <= threads]
    longest = max(heavy, key=lambda group: group.waited_seconds, default=None)
    if longest is not None and longest.waited_seconds >= OVERDUE_SECONDS:
        seen.groups.remove(longest)
        seen.groups.insert(0, longest)
        seen.overdue_slots = longest.slots
