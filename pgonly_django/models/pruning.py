"""Deletes a batch although some of its rows cannot go, as a rule because rows of the project's refer to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Kept(NamedTuple):
    """A row that the database refused to delete."""

    id: str
    reason: str


class Pruned(NamedTuple):
    """What became of one batch."""

    deleted: int
    kept: list[Kept]


def delete_what_can_go(
    ids: Sequence[str],
    delete: Callable[[Sequence[str]], int],
    put_off: Callable[[str], object],
    refusal: type[Exception],
) -> Pruned:
    """`delete(ids)` in one statement, or else each half for itself, down to the ones that cannot go: those are put
    off, or they would stand at the head of every batch."""
    if not ids:
        return Pruned(0, [])
    try:
        return Pruned(delete(ids), [])
    except refusal as error:
        if len(ids) == 1:
            put_off(ids[0])
            return Pruned(0, [Kept(ids[0], str(error).strip().splitlines()[0])])
    middle = len(ids) // 2
    first, second = (
        delete_what_can_go(half, delete, put_off, refusal) for half in (ids[:middle], ids[middle:])
    )
    return Pruned(first.deleted + second.deleted, first.kept + second.kept)
