"""Walks through items from a position on. Querysets: see rows.py; sequences are sliced, and of anything else the first
items are skipped."""

from __future__ import annotations

import contextlib
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Iterator,
    MappingView,
    Reversible,
    Sequence,
)
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db.models import QuerySet
from django.db.models.query import RawQuerySet

from pgonly_django.context.rows import Read, Rows
from pgonly_django.queue.checkpoints import Position

T = TypeVar("T")


def count(items: Any, at: Position) -> int | None:
    """How many items there are with those done; None for an iterator or generator, which has no length."""
    if isinstance(items, QuerySet):
        return Rows(items).count(at)
    return len(items) if hasattr(items, "__len__") else None


def require_order(items: Any) -> None:
    """Raises TypeError for items that may come in another order in the next run, and so be lost."""
    if isinstance(items, AbstractSet) and not isinstance(items, Reversible | MappingView):
        raise TypeError(
            f"iterate() resumes by position, and a {type(items).__name__} has no order: another process walks it in "
            "another one. Give it a list, such as sorted(items)."
        )
    if isinstance(items, RawQuerySet) and "order by" not in str(items.raw_query).lower():
        raise TypeError(
            "iterate() resumes by position, and this raw query has no ORDER BY: the next run may get its rows in "
            "another order. Add one that no two rows share, such as the primary key."
        )


def items_from(items: Iterable[T], at: Position, read: Read) -> Iterator[tuple[T, Position]]:
    """The items after `at`, each with the position that is reached once it is done."""
    if isinstance(items, QuerySet):
        for rows in Rows(items).chunks(at, read):
            yield from rows
    else:
        yield from _numbered(items, at)


async def aitems_from(items: Any, at: Position, read: Read) -> AsyncIterator[tuple[Any, Position]]:
    """See items_from(); takes async iterables too."""
    if isinstance(items, QuerySet):
        chunks = Rows(items).chunks(at, read)
        while (rows := await sync_to_async(lambda: next(chunks, None))()) is not None:
            for row in rows:
                yield row
    elif isinstance(items, AsyncIterable):
        done = 0
        async for item in items:
            done += 1
            if done > at.done:
                yield item, Position(done)
    else:
        for pair in _numbered(items, at):
            yield pair


def _numbered(items: Iterable[T], at: Position) -> Iterator[tuple[T, Position]]:
    for done, item in enumerate(_rest(items, at.done), at.done + 1):
        yield item, Position(done)


def _rest(items: Iterable[T], done: int) -> Iterator[T]:
    if isinstance(items, Sequence):
        with contextlib.suppress(TypeError):  # a deque is a Sequence without slices
            return iter(items[done:])
    return islice(items, done, None)
