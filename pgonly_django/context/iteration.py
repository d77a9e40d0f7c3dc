"""Walks through items from a position on: slices sequences and querysets, skips the first items of anything else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db.models import QuerySet

T = TypeVar("T")


def count(items: Any) -> int | None:
    """How many items there are; None for an iterator or generator, which has no length."""
    if isinstance(items, QuerySet):
        return items.count()
    return len(items) if hasattr(items, "__len__") else None


def iterate_from(items: Iterable[T], start: int) -> Iterator[T]:
    if isinstance(items, QuerySet):
        return iter(items[start:])
    if isinstance(items, Sequence):
        with contextlib.suppress(TypeError):  # a deque is a Sequence without slices
            return iter(items[start:])
    return islice(items, start, None)


async def aiterate_from(items: Any, start: int) -> AsyncIterator[Any]:
    if isinstance(items, QuerySet):
        for item in await sync_to_async(lambda: list(items[start:]))():
            yield item
    elif isinstance(items, AsyncIterable):
        place = 0
        async for item in items:
            if place >= start:
                yield item
            place += 1
    else:
        for item in iterate_from(items, start):
            yield item
