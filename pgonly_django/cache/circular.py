"""Refuses a get_or_set() that would wait for itself: the thread or task that calls it is computing the same key.

A task that the computation started counts as part of it.
"""

import contextlib
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar, Token
from inspect import isawaitable
from typing import Any, Self

from pgonly_django.exceptions import CircularComputationError


class _Computation:
    """Of one entry (`place`); entered while its function runs. A task that runs on after it may ask for the key."""

    def __init__(self, place: Hashable, name: str) -> None:
        self.place, self.name, self.is_over = place, name, False
        self._token: Token[tuple[_Computation, ...]] | None = None

    def __enter__(self) -> Self:
        self.is_over, self._token = False, _running.set((*_running.get(), self))
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        assert self._token is not None
        # The garbage collector ends a forgotten task in another context.
        with contextlib.suppress(ValueError):
            _running.reset(self._token)

    async def awaited(self, value: Awaitable[Any]) -> Any:
        with self:
            return await value


_running: ContextVar[tuple[_Computation, ...]] = ContextVar("pgonly_cache_computing", default=())


def refuse_circular(place: Hashable, name: str) -> None:
    """Raises CircularComputationError where the caller computes this place, or is part of its computation."""
    running = [each for each in _running.get() if not each.is_over]
    if any(each.place == place for each in running):
        raise CircularComputationError([*(each.name for each in running), name])


def computing(place: Hashable, name: str, function: Callable[[], Any]) -> Callable[[], Any]:
    """`function`, sync or async, during which refuse_circular() refuses this place."""

    def compute() -> Any:
        with _Computation(place, name) as computation:
            value = function()
        return computation.awaited(value) if isawaitable(value) else value

    return compute
