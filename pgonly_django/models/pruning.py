"""Deletes a batch even if some of its rows cannot be deleted, mostly because rows of the project refer to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import psycopg
from django.db import IntegrityError


class Kept(NamedTuple):
    """A row that the database refused to delete."""

    id: str
    reason: str


class Pruned(NamedTuple):
    """The answer for one batch. `spared`: how many are still needed, and are looked at again later."""

    deleted: int
    kept: list[Kept]
    spared: int = 0

    @property
    def found(self) -> int:
        return self.deleted + len(self.kept) + self.spared


def delete_what_can_go(
    ids: Sequence[str], delete: Callable[[Sequence[str]], int], put_off: Callable[[str], object]
) -> Pruned:
    """Deletes `ids` in one statement, or else each half by itself, down to single rows that cannot be deleted. Such
    rows are put off: otherwise they would stand at the head of every batch."""
    if not ids:
        return Pruned(0, [])
    try:
        return Pruned(delete(ids), [])
    except (psycopg.IntegrityError, IntegrityError) as error:
        if len(ids) == 1:
            put_off(ids[0])
            return Pruned(0, [Kept(ids[0], str(error).strip().splitlines()[0])])
    middle = len(ids) // 2
    halves = [delete_what_can_go(half, delete, put_off) for half in (ids[:middle], ids[middle:])]
    return Pruned(sum(half.deleted for half in halves), [kept for half in halves for kept in half.kept])
